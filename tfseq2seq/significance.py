"""Whether one system is better than another, or chance: the paired bootstrap."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from sacrebleu.significance import PairedTest

from tfseq2seq.evaluation import Metric, References, arrow, check_lines, find_metric, reference_streams

SEED = 12345  # sacreBLEU's own
SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One metric of one system, beside the first system.

    Attributes:
        value: the score of all lines, as `evaluate` gives it.
        interval: half of the width of the 95 % interval of the score, over resampled lines; None of a metric that looks
            at all lines together, whose value changes with their number.
        p_value: how likely so large a difference to the first system is by chance; None for the first itself, and
            where there is no interval.
        signature: of the metric; sacreBLEU's with the test's samples and seed.
        maximize: whether more is better; None where neither is.
    """

    value: float
    interval: float | None
    p_value: float | None
    signature: str | None
    maximize: bool | None


def compare(
    metric_names: Iterable[str], systems: Mapping[str, Sequence[str]], references: References, samples: int = 1000,
) -> dict[str, dict[str, Comparison]]:
    """Paired bootstrap resampling (Koehn, 2004, "Statistical significance tests for machine translation evaluation").

    Lines are drawn again and again with replacement, the same for both systems. With d the absolute difference of the
    scores of all lines, and d_i that of the i-th sample, p = (1 + #(d_i - mean(d_i) > d)) / (1 + samples), as in
    sacreBLEU, which does it for its own metrics. Of equal hypotheses, which that formula calls different, p is 1.

    Args:
        metric_names: keys of `METRICS`.
        systems: hypotheses by the systems' names, at least two; the first is what the others are compared with.
        references: a list for each line.
        samples: how many.
    Returns:
        By system and metric.
    Raises:
        ValueError: as `evaluate`, or there are fewer than two systems.
    """
    if len(systems) < 2:
        raise ValueError(f"compare needs at least two systems. Received: {', '.join(systems) or 'none'}.")
    metrics, first = [find_metric(name) for name in metric_names], list(next(iter(systems.values())))
    for hypotheses in systems.values():
        check_lines(first, hypotheses, references)
    found: dict[str, dict[str, Comparison]] = {system: {} for system in systems}
    for metric in metrics:
        if metric.count_all is not None:
            for system, hypotheses in systems.items():
                score = metric.score(hypotheses, references)
                found[system][metric.name] = Comparison(score.value, None, None, score.signature, score.maximize)
            continue
        test = _by_counts if metric.scorer is None else _by_sacrebleu
        for system, comparison in zip(systems, test(metric, systems, references, samples), strict=True):
            equal = comparison.p_value is not None and list(systems[system]) == first
            found[system][metric.name] = dataclasses.replace(comparison, p_value=1.0) if equal else comparison
    return found


def _by_sacrebleu(
    metric: Metric, systems: Mapping[str, Sequence[str]], references: References, samples: int,
) -> list[Comparison]:
    assert metric.scorer is not None
    test = PairedTest(
        [(name, list(hypotheses)) for name, hypotheses in systems.items()], {metric.name: metric.scorer()},
        reference_streams(references), test_type="bs", n_samples=samples)  # type: ignore[arg-type]  # it omits None
    signatures, results = test()
    ((key, signature),) = signatures.items()
    found: list[Any] = results[key]
    return [
        Comparison(float(result.score), float(result.ci), result.p_value, str(signature), metric.maximize)
        for result in found]


def _by_counts(
    metric: Metric, systems: Mapping[str, Sequence[str]], references: References, samples: int,
) -> list[Comparison]:
    counts = [metric.count_lines(hypotheses, references) for hypotheses in systems.values()]

    def share(sums: np.ndarray) -> np.ndarray:
        return metric.scale * sums[..., 0] / np.maximum(sums[..., 1], 1)

    found = compare_sums(counts, share, metric.maximize, samples)
    return [dataclasses.replace(each, signature=metric.signature) for each in found]


def compare_sums(
    of_lines: Sequence[np.ndarray], value_of: Callable[[np.ndarray], np.ndarray], maximize: bool | None, samples: int,
) -> list[Comparison]:
    """The same of a score that is a function of sums over the lines.

    Args:
        of_lines: for each system [N, 2], what is summed.
        value_of: sums [..., 2] to scores [...].
        maximize: whether more is better.
        samples: how many.
    """
    counts = np.stack(of_lines)  # [systems, N, 2]
    random = np.random.default_rng(SEED)
    num_lines = counts.shape[1]
    drawn = value_of(np.stack([
        counts[:, random.integers(0, num_lines, num_lines)].sum(1) for _ in range(samples)]))  # [samples, systems]
    values = value_of(counts.sum(1))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    comparisons = []
    for system, value in enumerate(values):
        differences = np.abs(drawn[:, system] - drawn[:, 0])
        larger = int((differences - differences.mean() > abs(value - values[0])).sum())
        p_value = None if system == 0 else (1 + larger) / (1 + samples)
        comparisons.append(Comparison(float(value), float(high[system] - low[system]) / 2, p_value, None, maximize))
    return comparisons


def render_comparison(systems: Mapping[str, Mapping[str, Comparison]], title: str | None = None) -> Table:
    """Draws a comparison for the terminal: a row a metric, a column a system; sacreBLEU's signatures stand below.

    A star marks a difference to the first system that chance makes less often than one time in twenty.
    """
    first = next(iter(systems.values()))
    signatures = [f"{name}: {found.signature}" for name, found in first.items() if found.signature]
    notes = [f"± 95 % interval; * p < {SIGNIFICANT} beside {next(iter(systems))} (paired bootstrap)", *signatures]
    table = Table(title=title, caption="\n".join(notes), caption_justify="left")
    table.add_column("metric")
    for system in systems:
        table.add_column(system, justify="right")
    for name, found in first.items():
        table.add_row(
            f"{name} {arrow(found.maximize)}".strip(), *(_cell(metrics[name]) for metrics in systems.values()))
    return table


def _cell(found: Comparison) -> str:
    text = f"{found.value:.2f}" + ("" if found.interval is None else f" ± {found.interval:.2f}")
    if found.p_value is None:
        return text
    return f"{text} (p = {found.p_value:.3f}){' *' if found.p_value < SIGNIFICANT else ''}"
