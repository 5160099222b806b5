"""How far a generation is, read from its output folder on any machine; and another try for what failed. Nothing is
generated here, and no worker needs to run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from adhmr.errors import AdhmrError
from adhmr.preference.ledger import Failure, Ledger, file_system_now

LEDGERS, PLAN_NAME, WORKERS = "ledger", "plan.json", "workers"  # output/ledger/plan.json, output/ledger/workers/
RATE_SECONDS = 600.0  # the rate is that of so long a time
MIN_MARKS = 2  # but of so many units at least


@dataclass(frozen=True)
class Progress:
    """Units of all data sets together."""

    done: int
    total: int
    failed: int  # given up
    workers: int  # that gave a sign of life lately
    units_per_s: float  # by all workers, lately; 0 when none works

    @property
    def eta_seconds(self) -> float | None:
        """None while no unit gets done."""
        return (self.total - self.failed - self.done) / self.units_per_s if self.units_per_s else None


def generation_progress(output: Path) -> Progress:
    """Raises AdhmrError when no worker has begun in `output`."""
    plan, ledgers = _ledgers(output)
    now = file_system_now(output / LEDGERS)
    times = sorted(time for ledger in ledgers for time in ledger.times_of_marks())
    workers = sum(now - time < plan["lease_seconds"] for time in _signs_of_life(output))
    return Progress(
        done=len(times),
        total=sum(len(ledger.units) for ledger in ledgers),
        failed=sum(len(ledger.given_up()) for ledger in ledgers),
        workers=workers,
        units_per_s=_rate(times, now) if workers else 0.0,
    )


def failed_units(output: Path) -> list[tuple[str, Failure]]:
    """(data set and rankings, last failure) of the units that were given up."""
    _, ledgers = _ledgers(output)
    return [(ledger.folder.name, ledger.last_failure(unit)) for ledger in ledgers for unit in ledger.given_up()]


def retry_failed(output: Path) -> int:
    """Units that were given up get their attempts anew; returns their number. Workers that run take them up."""
    _, ledgers = _ledgers(output)
    number = sum(len(ledger.given_up()) for ledger in ledgers)
    for ledger in ledgers:
        ledger.forget_failures()
    return number


def _ledgers(output: Path) -> tuple[dict, list[Ledger]]:
    try:
        plan = json.loads((output / LEDGERS / PLAN_NAME).read_text())
    except FileNotFoundError:
        raise AdhmrError(f"{output}: no shared work has begun here; expected {LEDGERS}/{PLAN_NAME} in it") from None
    common = (output, "reader", plan["lease_seconds"], plan["attempts"])
    ledgers = []
    for name, count in plan["units"].items():
        units = [f"{number:06d}" for number in range(count)]
        ledgers.append(Ledger(output / LEDGERS / name, units, *common))
    return plan, ledgers


def _signs_of_life(output: Path) -> list[float]:
    times = []
    for path in (output / LEDGERS / WORKERS).glob("[!.]*.json"):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # it has just ended
            continue
    return times


def _rate(times: list[float], now: float) -> float:
    recent = [time for time in times if now - time < RATE_SECONDS]
    recent = recent if len(recent) >= MIN_MARKS else times[-MIN_MARKS:]
    if len(recent) < MIN_MARKS:
        return 0.0
    return (len(recent) - 1) / max(now - recent[0], 1e-3)
