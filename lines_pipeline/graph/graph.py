"""The typed graph of a recipe: its nodes spread into steps, in an order that does not depend on the file's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lines_pipeline.core.types import EdgeType

if TYPE_CHECKING:
    import networkx

    from lines_pipeline.core.plugins import Origin
    from lines_pipeline.core.tensor_specs import TensorSpec
    from lines_pipeline.ops.base import AnyOp, OpParams
    from lines_pipeline.ops.derivations import Derivation
    from lines_pipeline.ops.varying import Varying


@dataclass(frozen=True)
class Step:
    """Applies an op once: for a node, or for one member of a collection (``updates[digits]``)."""

    id: str
    node: str
    item: str | None
    op: AnyOp
    params: OpParams
    inputs: Mapping[str, tuple[str, ...]]
    """Step ids by port, in order; ports without input are absent."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    gives: EdgeType
    port: str = ""
    """Of a step that loads a file which a port of the node names: the port."""
    varying: tuple[Varying, ...] = ()
    """Numbers of ``params`` that differ from tensor to tensor; ``params`` has one of each, for what goes by none."""
    variants: tuple[OpParams, ...] = ()
    """The parameters that tensors have, each once, where they vary; known once headers are."""
    variant_of: Mapping[str, int] = field(default_factory=dict)
    """By tensor that is computed: which of ``variants`` it has."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """What every name of ``for_each`` stands for in this member, also in the collections that it maps over."""
    content: str = ""
    """What the value depends on besides parameters and inputs: the data that a driver measured it on."""
    measured: Mapping[str, TensorSpec] | None = None
    """The tensors of a value that a driver has measured, where only that tells them."""

    def params_of(self, tensor: str) -> OpParams:
        """Return the parameters that a tensor has."""
        return self.variants[self.variant_of[tensor]] if tensor in self.variant_of else self.params

    @property
    def all_params(self) -> tuple[OpParams, ...]:
        """Return the parameters of any tensor, each once."""
        return self.variants or (self.params,)

    def stats_name(self, variant: int, name: str) -> str:
        """Name a statistic that the op calls ``name``, for one of the variants."""
        return f"{variant}:{name}" if self.variants else name

    def stats_of(self, variant: int, stats: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the statistics of one variant, by the names that the op gives them."""
        start = f"{variant}:"
        if not self.variants:
            return stats
        return {name.removeprefix(start): value for name, value in stats.items() if name.startswith(start)}

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the ids of all steps this one takes, each once, in order of ports."""
        return tuple(dict.fromkeys(source for ids in self.inputs.values() for source in ids))

    @property
    def followed(self) -> str | None:
        """Return the input whose tensors the value has: of the followed port, else the first; None without inputs."""
        ports = sorted(self.inputs, key=lambda port: not self.op.inputs[port].followed)
        return self.inputs[ports[0]][0] if ports else None

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Return the number of inputs by port; 0 for ports that are left open."""
        return {port: len(self.inputs.get(port, ())) for port in self.op.inputs}

    @cached_property
    def value_inputs(self) -> Mapping[str, tuple[str, ...]]:
        """Return the step ids by port that the value is computed from, without those that are only measured."""
        return {port: ids for port, ids in self.inputs.items() if not self.op.inputs[port].statistics_only}


@dataclass(frozen=True)
class Graph:
    """Steps in topological order (ties by name, members in item order), and the steps of every node."""

    steps: Mapping[str, Step]
    members: Mapping[str, tuple[str, ...]]
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameters by node as the recipe has them, the environment by name: what may be shown and tracked."""

    def ancestors(self, targets: Iterable[str]) -> tuple[str, ...]:
        """Return targets (step ids, or nodes) and all they depend on, in order; KeyError for what is neither."""
        reached = {step for target in targets for step in self.members.get(target, (target,))}
        for unknown in reached - self.steps.keys():
            raise KeyError(unknown)
        for step in reversed(list(self.steps.values())):
            if step.id in reached:
                reached.update(step.sources)
        return tuple(step for step in self.steps if step in reached)

    def followed(self, step_id: str) -> str:
        """Return the step without inputs whose model a step's value follows: of the base, else of the first model."""
        while (source := self.steps[step_id].followed) is not None:
            step_id = source
        return step_id

    def transductive(self, targets: Iterable[str]) -> tuple[str, ...]:
        """Return the nodes that learn from inputs of the test split, of all that ``targets`` depend on."""
        steps = [self.steps[step] for step in self.ancestors(targets)]
        learning = (step for step in steps if step.gives is not EdgeType.METRICS)
        uses = {step.node: step.op.suite_of(step.params, step.inputs) for step in learning}
        return tuple(node for node, use in uses.items() if use is not None and use.split == "test")

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        """Return the steps that a run is for: files to write, models to judge."""
        return tuple(step.id for step in self.steps.values() if step.op.is_output)

    @cached_property
    def evaluations(self) -> tuple[str, ...]:
        """Return the steps that have a suite judge a model."""
        metrics = (step for step in self.steps.values() if step.gives is EdgeType.METRICS)
        evaluating = (step for step in metrics if not step.op.measures_metrics)
        return tuple(step.id for step in evaluating if step.op.suite_of(step.params, step.inputs) is not None)

    @cached_property
    def measurements(self) -> tuple[str, ...]:
        """The steps whose drivers measure metrics of models."""
        return tuple(step.id for step in self.steps.values() if step.op.measures_metrics)

    @cached_property
    def measured_models(self) -> tuple[str, ...]:
        """The steps whose weights are judged or measured, each once."""
        return tuple(dict.fromkeys([*self.models_of(self.evaluations), *self.models_measured_by(self.measurements)]))

    def models_measured_by(self, steps: Iterable[str]) -> tuple[str, ...]:
        """The steps whose weights the drivers of some steps measure, in the graph's order."""
        models = set(self.models_of(steps))
        return tuple(step for step in self.steps if step in models)

    @cached_property
    def derivations(self) -> Mapping[str, Derivation]:
        """Return how steps are made of the metrics of others, in topological order."""
        of_steps = {step.id: step.op.derivation_of(step.params) for step in self.steps.values()}
        return {step: derivation for step, derivation in of_steps.items() if derivation is not None}

    def models_of(self, steps: Iterable[str]) -> tuple[str, ...]:
        """Return the steps whose weights some steps take, each once."""
        sources = (source for step in steps for source in self.steps[step].sources)
        return tuple(dict.fromkeys(source for source in sources if self.steps[source].gives is EdgeType.WEIGHTS))

    @cached_property
    def plugins(self) -> tuple[Origin, ...]:
        """Return the plug-ins that its ops come from."""
        return tuple(dict.fromkeys(step.op.origin for step in self.steps.values() if step.op.origin is not None))

    @cached_property
    def digraph(self) -> networkx.DiGraph[str]:
        """Return a graph of the nodes, with an edge for each pair of connected nodes, its ``ports`` and ``type``."""
        import networkx

        drawn: networkx.DiGraph[str] = networkx.DiGraph()
        drawn.add_nodes_from(self.members)
        for step in self.steps.values():
            for port, sources in step.inputs.items():
                for source in (source for source in sources if not self.steps[source].port):
                    self._connect(drawn, self.steps[source], step, port)
        return drawn

    @staticmethod
    def _connect(drawn: networkx.DiGraph[str], source: Step, step: Step, port: str) -> None:
        known: dict[str, Any] = drawn.get_edge_data(source.node, step.node, default={})
        ports = known.get("ports", ())
        drawn.add_edge(source.node, step.node, type=source.gives, ports=(*ports, *({port} - set(ports))))
