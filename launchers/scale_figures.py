"""What the runs of a scale-up experiment measured: a row for each size, as CSV and as a picture. What each column
means, and what the estimate of communication holds, is said in docs/slurm.md."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError
from adhmr.training.attempts import read_attempts
from adhmr.training.tracking import read_metrics
from launchers.scale_plan import Scaling, Size


@dataclass(frozen=True)
class Measurement:
    """Of the steps after the warm-up. Shares are of the step time."""

    scaling: Scaling
    nodes: int
    ranks: int
    global_batch: int
    micro_batch: int
    micro_batches: int  # of a rank in a step
    steps: int  # measured
    step_time: float  # s, of the slowest rank
    step_time_deviation: float  # s, over the intervals between log lines; 0 with one
    samples_per_s: float  # all ranks together
    speedup: float  # in samples a second, against the smallest size
    efficiency: float  # of the speed-up that as many times the ranks would give
    data_wait: float  # share, of the rank that waits longest
    lag: float  # share: how much later the slowest rank comes to the first exchange than the quickest
    communication: float  # share: what the computing of the smallest size and the wait for data do not explain


@dataclass(frozen=True)
class _Raw:
    steps: int
    seconds: float
    deviation: float
    data_wait: float
    lag: float  # s


def measure(sizes: Sequence[Size], scaling: Scaling, warmup: int) -> list[Measurement]:
    """Of runs that have ended, the smallest first; speed-up and shares are counted from it."""
    raw = [_read(size, warmup) for size in sizes]
    rows: list[Measurement] = []
    first, one = sizes[0], raw[0]
    for size, own in zip(sizes, raw):
        rate, before = size.global_batch / own.seconds, first.global_batch / one.seconds
        computing = one.seconds * (1 - one.data_wait) * size.share / first.share
        beyond = own.seconds * (1 - own.data_wait) - computing
        rows.append(
            Measurement(
                scaling=scaling,
                nodes=size.nodes,
                ranks=size.ranks,
                global_batch=size.global_batch,
                micro_batch=size.micro_batch,
                micro_batches=size.share // size.micro_batch,
                steps=own.steps,
                step_time=own.seconds,
                step_time_deviation=own.deviation,
                samples_per_s=rate,
                speedup=rate / before,
                efficiency=rate / before * first.ranks / size.ranks,
                data_wait=own.data_wait,
                lag=own.lag / own.seconds,
                communication=max(beyond, 0.0) / own.seconds,
            )
        )
    return rows


def _read(size: Size, warmup: int) -> _Raw:
    run = Path(size.config.output)
    begun = [line["step"] for line in read_attempts(run) if line["event"] == "begun"]
    # An attempt that goes on warms up again: what lies before it, and its own first steps, do not count.
    first = (begun[-1] if begun else 0) + warmup
    lines = [line for line in read_metrics(run) if line["step"] - size.config.train.log_every >= first]
    if not lines:
        raise AdhmrError(
            f"{run}: no log line after the {warmup} steps of warm-up; take more steps, or another --output"
        )
    seconds = [line.get("step_time_max", line["step_time"]) for line in lines]
    return _Raw(
        steps=len(lines) * size.config.train.log_every,
        seconds=statistics.fmean(seconds),
        deviation=statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
        data_wait=statistics.fmean(line.get("data_wait_max", line["data_wait"]) for line in lines),
        lag=statistics.fmean(line.get("slowest_rank_lag", 0.0) for line in lines),
    )


def write_csv(rows: Sequence[Measurement], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Measurement)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _rounded(value) for name, value in asdict(row).items()})
    write_atomically(path, text.getvalue())


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def draw(rows: Sequence[Measurement], path: Path, title: str) -> None:
    """Left: samples a second against the ideal line, with the efficiency of each size. Right: where a step goes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    nodes = [row.nodes for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    ideal = [rows[0].samples_per_s * row.ranks / rows[0].ranks for row in rows]
    left.plot(nodes, ideal, "--", color="0.6", label="ideal")
    deviations = [row.samples_per_s * row.step_time_deviation / row.step_time for row in rows]
    left.errorbar(nodes, [row.samples_per_s for row in rows], deviations, marker="o", capsize=3, label="measured")
    for row in rows:
        text = f"{row.efficiency:.0%}"
        at = (row.nodes, row.samples_per_s)
        left.annotate(text, at, (7, -5), textcoords="offset points", va="top", fontsize=9)
    left.set_xscale("log", base=2)
    left.set_yscale("log", base=2)
    left.set_xticks(nodes, [str(number) for number in nodes])
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.margins(0.1, 0.2)
    left.set_xlabel("nodes")
    left.set_ylabel("samples a second")
    left.set_title(f"throughput and efficiency ({rows[0].scaling} scaling)", fontsize=10)
    left.grid(alpha=0.3)
    left.legend()

    places = range(len(rows))
    parts = {
        "computing": [row.step_time * (1 - row.data_wait - row.communication) for row in rows],
        "waiting for data": [row.step_time * row.data_wait for row in rows],
        "communication and waiting for others": [row.step_time * row.communication for row in rows],
    }
    floor = [0.0] * len(rows)
    for (name, heights), colour in zip(parts.items(), ("#4878a8", "#e0b050", "#b04848")):
        right.bar(places, heights, 0.6, floor, label=name, color=colour)
        floor = [below + height for below, height in zip(floor, heights)]
    right.set_xticks(places, [f"{row.nodes}\n(batch {row.global_batch})" for row in rows])
    right.set_ylim(0, max(floor) * 1.3)
    right.set_xlabel("nodes")
    right.set_ylabel("seconds a step")
    right.set_title("where a step goes", fontsize=10)
    right.legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
