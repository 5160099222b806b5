"""Fitting a checkpoint's tensors to one of our models, and the account of it: what was taken, left out, not found.

Every tensor of the file ends in one of the lists of the report, or in an error. Reading is in official_file.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adhmr.errors import AdhmrError
from adhmr.models.official_file import State
from adhmr.models.official_names import Place

#: Beginnings of names -> why they are left out, or may be missing.
Reasons = Mapping[str, str]

_COUNTER = "num_batches_tracked"
_SHOWN_PROBLEMS = 4
#: Parts that say nothing about where a tensor belongs: a group's name has one part more.
_WRAPPERS = {"module", "backbone", "neck", "encoder", "score_net"}


@dataclass
class ImportReport:
    """The account of one import; `lines` is what the command prints."""

    file: Path
    kind: str
    weights: str  # "raw" or "ema"
    taken: dict[str, int] = field(default_factory=dict)  # entry of the file -> tensors
    left_out: list[tuple[str, str]] = field(default_factory=list)  # name in the file, reason
    initial: list[tuple[str, str]] = field(default_factory=list)  # our name, reason: not in the file
    notes: list[str] = field(default_factory=list)
    output: Path | None = None  # the weight file, once written

    def lines(self) -> list[str]:
        averaged = {"raw": "weights as trained", "ema": "averaged (EMA) weights"}[self.weights]
        told = [f"{self.file}: {self.kind}, {averaged}"]
        told += [f"  taken: {entry + ': ' if entry else ''}{count} tensors" for entry, count in self.taken.items()]
        told += [f"  left out: {line}" for line in _grouped(self.left_out)]
        told += [f"  not in the file: {line}" for line in _grouped(self.initial)]
        told += [f"  {note}" for note in self.notes]
        if self.output is not None:
            told.append(f"  written: {self.output} ({self.output.stat().st_size / 1e6:.0f} MB)")
        return told


def _grouped(named: list[tuple[str, str]]) -> list[str]:
    """A line for each reason: the names, or for several of one module its name and their number."""
    groups: dict[str, dict[str, list[str]]] = {}  # reason -> module -> names
    for name, reason in named:
        entry, colon, key = name.rpartition(": ")
        parts = key.split(".")
        depth = next((depth for depth, part in enumerate(parts) if part not in _WRAPPERS), len(parts) - 1) + 1
        module = f"{entry}{colon}{'.'.join(parts[:depth])}"
        groups.setdefault(reason, {}).setdefault(module, []).append(name)
    lines = []
    for reason, modules in groups.items():
        told = (
            names[0] if len(names) == 1 else f"{module}.* {len(names)} tensors" for module, names in modules.items()
        )
        lines.append(f"{', '.join(told)} ({reason})")
    return lines


class OfficialStates:
    """State dicts of a checkpoint, by entry, without DataParallel's `module.` prefix."""

    def __init__(self, path: Path, states: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.states: dict[str, dict[str, Any]] = {}
        self._prefix: dict[str, str] = {}
        for entry, state in states.items():
            self._prefix[entry] = "module." if state and all(str(key).startswith("module.") for key in state) else ""
            self.states[entry] = {str(key).removeprefix(self._prefix[entry]): value for key, value in state.items()}

    def label(self, entry: str, key: str) -> str:
        """How the file names a tensor."""
        return f"{entry}: {self._prefix[entry]}{key}" if entry else f"{self._prefix[entry]}{key}"

    def averaged(self, entry: str, shadow: Any, shadow_entry: str) -> dict[str, Any]:
        """The state of `entry` with its parameters from an EMA's list, which has their order but not their names.

        Buffers are not averaged, so the parameters are what is left of the raw state without them.
        Raises AdhmrError when the list is none, or differs in length or shapes.
        """
        values = shadow.get("shadow_params") if isinstance(shadow, dict) else None
        if not isinstance(values, list | tuple):
            raise AdhmrError(
                f"{self.path}: '{shadow_entry}' has no list 'shadow_params'; take the weights as trained: --weights raw"
            )
        raw = self.states[entry]
        names = [name for name in raw if not is_buffer(name)]
        if len(values) != len(names):
            raise AdhmrError(
                f"{self.path}: '{shadow_entry}' averages {len(values)} tensors, but '{entry}' has {len(names)} "
                "parameters: they cannot be matched; take the weights as trained: --weights raw"
            )
        for number, (name, value) in enumerate(zip(names, values)):
            if not isinstance(value, torch.Tensor) or value.shape != raw[name].shape:
                found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise AdhmrError(
                    f"{self.path}: {shadow_entry}: shadow_params[{number}] is {found}, expected "
                    f"{tuple(raw[name].shape)} of {self.label(entry, name)}; take the weights as trained: --weights raw"
                )
        return raw | dict(zip(names, values))


def is_buffer(name: str) -> bool:
    """Whether an official name is no parameter: batch statistics and HypoNet's mean shape."""
    return name.rpartition(".")[2] in ("running_mean", "running_var", _COUNTER, "init_shape")


def fit(
    official: OfficialStates,
    own: State,
    place: Callable[[str], Place | None],
    report: ImportReport,
    left_out: Reasons,
    may_miss: Reasons,
) -> State:
    """The tensors of `official` under our names, in our shapes and types.

    place: our name -> where the file has it, or None when such files have no such part. `left_out` goes by the file's
    names (beginning of "entry: key"), `may_miss` by ours; both are listed in the report. Tensors without numbers and
    missing batch counters need no reason of their own.

    Raises AdhmrError naming the first few tensors that are missing, unknown, of another shape, or not finite.
    """
    problems: list[str] = []
    found: State = {}
    wanted: dict[tuple[str, str], list[tuple[str, Place]]] = {}
    for name in own:
        where = place(name)
        if where is None:
            report.initial.append((name, _reason(name, may_miss) or "no part of such a file"))
        else:
            wanted.setdefault((where.entry, where.key), []).append((name, where))

    for (entry, key), names in wanted.items():
        label = official.label(entry, key)
        shape = _official_shape([own[name] for name, _ in names])
        value = official.states[entry].get(key)
        if value is None:
            reason = _reason(names[0][0], may_miss) or ("counts batches; set to 0" if key.endswith(_COUNTER) else None)
            if reason is None:
                problems.append(f"{label} {shape} is missing")
            else:
                report.initial += [(name, reason) for name, _ in names]
            continue
        problem = _problem(value, shape)
        if problem:
            problems.append(f"{label} {problem}")
            continue
        thirds = value.chunk(3) if names[0][1].third is not None else (value,)
        for name, where in names:
            found[name] = thirds[where.third or 0].to(own[name].dtype)

    for entry, state in official.states.items():
        taken = 0
        for key, value in state.items():
            label = official.label(entry, key)
            if (entry, key) in wanted:
                taken += 1
            elif isinstance(value, torch.Tensor) and value.numel() == 0:
                report.left_out.append((label, "empty"))
            elif (reason := _reason(f"{entry}: {key}" if entry else key, left_out)) is not None:
                report.left_out.append((label, reason))
            else:
                shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                problems.append(f"{label} {shape} is unknown")
        report.taken[entry] = taken
    if problems:
        shown = "; ".join(problems[:_SHOWN_PROBLEMS])
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise AdhmrError(f"{official.path}: does not fit kind {report.kind}: {shown}{more}")
    return found


def _official_shape(parts: list[torch.Tensor]) -> tuple[int, ...]:
    """The shape of an official tensor that holds ours one after the other."""
    first = tuple(parts[0].shape)
    return first if len(parts) == 1 else (sum(len(part) for part in parts), *first[1:])


def _problem(value: Any, shape: tuple[int, ...]) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, expected a tensor {shape}"
    if tuple(value.shape) != shape:
        return f"is {tuple(value.shape)}, expected {shape}"
    if value.is_floating_point() and not torch.isfinite(value).all():
        return "holds values that are not finite"
    return None


def _reason(name: str, reasons: Reasons) -> str | None:
    return next((reason for beginning, reason in reasons.items() if name.startswith(beginning)), None)
