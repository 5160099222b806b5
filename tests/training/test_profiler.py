"""Which steps a window holds, over resumes, rewinds and stops; the trace and the table of a short run."""

import gzip
import json

import pytest
import torch
from pydantic import ValidationError

from adhmr.config.training import ProfileConfig
from adhmr.training.profiler import StepProfiler


def run(folder, steps, window="4-6", rank=0, error=None, **config) -> list[str]:
    """The names of the profiles of a process that makes these steps."""
    try:
        with StepProfiler(ProfileConfig(steps=window, **config), folder, rank) as profiler:
            for step in steps:
                profiler.step(step)
                torch.randn(16, 16) @ torch.randn(16, 16)
            if error is not None:
                raise error
    except (SystemExit, RuntimeError):
        pass
    return sorted(path.name.removesuffix(".json.gz") for path in (folder / "profile").glob("*.json.gz"))


def test_trace_and_table_hold_the_steps_of_the_window(tmp_path, capsys):
    assert run(tmp_path, range(10)) == ["steps-4-6-rank-0"]
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "steps-4-6-rank-0.json.gz",
        "steps-4-6-rank-0.txt",
    ]
    trace = json.loads(gzip.decompress((tmp_path / "profile/steps-4-6-rank-0.json.gz").read_bytes()))
    names = [event["name"] for event in trace["traceEvents"] if event.get("ph") == "X"]
    assert [name for name in names if name.startswith("step ")] == ["step 4", "step 5"]
    assert names.count("aten::mm") == 2
    table = (tmp_path / "profile/steps-4-6-rank-0.txt").read_text()
    assert "aten::mm" in table and "Self CPU time total" in table and "CPU Mem" not in table
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and str(tmp_path / "profile/steps-4-6-rank-0.txt") in lines[0]


def test_memory_is_a_column_when_asked_for(tmp_path):
    run(tmp_path, range(10), memory=True)
    assert "CPU Mem" in (tmp_path / "profile/steps-4-6-rank-0.txt").read_text()


@pytest.mark.parametrize(
    ("steps", "error", "names"),
    [
        (range(5, 9), None, ["steps-5-6-rank-0"]),  # resumed within the window
        (range(6, 9), None, []),  # and after it
        (range(5), None, ["steps-4-5-rank-0"]),  # the run ends within the window
        (range(5), SystemExit(85), ["steps-4-5-rank-0"]),  # so does the process
        (range(5), RuntimeError(), []),
        (range(7), RuntimeError(), ["steps-4-6-rank-0"]),  # after the window
        ([3, 4, 2, 3, 4, 5, 6], None, ["steps-4-5-rank-0"]),  # goes back: a process records once
    ],
)
def test_windows_that_are_cut(tmp_path, steps, error, names):
    assert run(tmp_path, steps, error=error) == names


def test_only_the_named_ranks_record(tmp_path):
    assert run(tmp_path, range(10), rank=1) == []
    assert run(tmp_path, range(10), rank=1, ranks=[1, 3]) == ["steps-4-6-rank-1"]
    with StepProfiler(None, tmp_path / "off", 0) as profiler:
        profiler.step(0)
    assert not (tmp_path / "off").exists()


def test_a_disk_that_refuses_does_not_end_the_run(tmp_path, capsys):
    (tmp_path / "profile").write_text("no folder")
    assert run(tmp_path, range(10)) == []
    assert "no profile" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["20-20", "25-20"])
def test_an_empty_window_is_refused(steps):
    with pytest.raises(ValidationError, match="holds no step"):
        ProfileConfig(steps=steps)
