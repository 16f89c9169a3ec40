"""Makes confidence intervals of means from per-sample results: a seeded bootstrap over clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lines_pipeline.suites.samples import Array, Samples

RESAMPLES = 1_000
COVERAGE = 0.95
_SEED = 20_250_101
_DRAWS_AT_ONCE = 2_000_000

Interval = tuple[float, float]


def intervals(samples: Samples) -> dict[str, Interval]:
    """Return the 95 % interval of every metric that is a mean over samples: percentiles over resampled clusters.

    A metric with values that are not finite has none, nor has one of a single cluster.
    """
    means = resampled_means(samples.values, samples.clusters)
    return {name: percentile_interval(values) for name, values in means.items()}


def paired_means(first: Samples, second: Samples) -> dict[str, Array]:
    """Return resampled means [RESAMPLES] of the differences second - first, by metric of both, sample by sample."""
    clusters = [samples.clusters for samples in (first, second) if samples.clusters is not None]
    same = not clusters or (len(clusters) == 2 and np.array_equal(clusters[0], clusters[1]))
    names = [name for name in first.values if name in second.values]
    if not same or any(len(first.values[name]) != len(second.values[name]) for name in names):
        return {}
    differences = {
        name: second.values[name].astype(np.float64) - first.values[name].astype(np.float64) for name in names
    }
    return resampled_means(differences, first.clusters)


def mean_over_tasks(means: Sequence[Array]) -> Array:
    """Return the resampled mean [RESAMPLES] of several tasks, from that of each.

    Tasks have samples of their own: the draws of each are put in an order of its own, the same whichever model is
    judged.
    """
    drawn = [np.random.default_rng(number).permutation(values) for number, values in enumerate(means)]
    total: Array = np.sum(drawn, axis=0)
    return total / len(drawn)


def percentile_interval(means: Array) -> Interval:
    """Return the middle 95 % of resampled means."""
    outside = (1 - COVERAGE) / 2
    low, high = np.quantile(means, (outside, 1 - outside))
    return float(low), float(high)


def resampled_means(values: Mapping[str, Array], clusters: Array | None) -> dict[str, Array]:
    """Return means [RESAMPLES] by metric, each over as many clusters as there are, drawn with replacement."""
    finite = {name: value.astype(np.float64) for name, value in values.items() if np.isfinite(value).all()}
    if not finite:
        return {}
    size = len(next(iter(finite.values())))
    numbers = np.arange(size) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count < 2:
        return {}
    sums = np.stack([np.bincount(numbers, weights=value, minlength=count) for value in finite.values()], 1)
    table = np.concatenate([sums, np.bincount(numbers, minlength=count)[:, None]], 1)
    totals = np.concatenate([counts @ table for counts in _draws(count)])
    means = totals[:, :-1] / totals[:, -1:]
    return {name: means[:, column] for column, name in enumerate(finite)}


def _draws(count: int) -> Iterator[Array]:
    """Yield how often each cluster is drawn, [rows, count] at a time: RESAMPLES rows in all."""
    generator = np.random.default_rng(_SEED)
    rows = max(min(_DRAWS_AT_ONCE // count, RESAMPLES), 1)
    for start in range(0, RESAMPLES, rows):
        rows_drawn = min(rows, RESAMPLES - start)
        drawn = generator.integers(count, size=(rows_drawn, count)) + np.arange(rows_drawn)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows_drawn * count).reshape(rows_drawn, count).astype(np.float64)
