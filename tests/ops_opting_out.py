"""Which ops do not keep a law, and why."""

from __future__ import annotations

from collections.abc import Mapping

TAKES_ONE = "takes one task vector"
A_MASK = "gives a mask, no update"
ABSOLUTE = "compares weights with a number in units of weights"

NO_ZEROS: Mapping[str, str] = {"magnitude-mask": A_MASK, "tall-mask": A_MASK}

NO_PERMUTATION: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("task-vector", "apply", "trim", "magnitude-mask", "mask", "lines-scale", "scale", "larv"),
            *("dare", "della", "breadcrumbs", "partition", "nearswap", "arcee-fusion"),
        ),
        TAKES_ONE,
    ),
    "magmax": "of equal magnitudes the later one counts",
    "fisher floor_on=first": "the floor is the first model's",
    "sce density=0.5": "equal variances are summed in another order, and rounding parts them at the cut",
    "wudi": "steps of Adam have their full length where the gradient is no more than rounding",
    "dc-merge": "of equal singular values, or entries, rounding chooses; rounding elects signs of sums of 0",
    "doge-ta": "of directions that tasks share equally rounding chooses; steps of Adam as in wudi",
    "ties density=1.0 sign=norm-fraction aggregate=sum": "of equal shares the first one counts",
}

NO_SCALING: Mapping[str, str] = {
    "nearswap": ABSOLUTE,
    "ram": ABSOLUTE,
    "ramplus-tl": ABSOLUTE,
    "sce": "sums of mean squares below 1e-6 give equal weights",
    "wudi": "Adam's steps have a fixed length",
    "doge-ta": "scales each task to a norm of its own; Adam's steps have a fixed length",
    "pcb": "the tanh takes products of weights",
    "ace": "eps and the logarithms of norms are in units of weights",
    "arcee-fusion": "the softmax takes weights",
}
