"""What a stage's imports leave to the garbage collector."""

import gc
import sys

import pytest

from adhmr.cli.stages import stage_function
from adhmr.config.entry_points import STAGES


@pytest.fixture(autouse=True)
def nothing_frozen():
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_the_collector_passes_over_what_the_imports_made():
    assert stage_function("synth").__module__ == "adhmr.data.synthetic.stage"
    assert gc.isenabled() and gc.get_freeze_count() > 10_000


def test_the_collector_runs_again_after_imports_that_fail(monkeypatch):
    monkeypatch.setitem(STAGES, "synth", "adhmr.no_such_module:run_stage")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        stage_function("synth")
    assert gc.isenabled()


def test_it_does_not_run_during_the_imports(monkeypatch, tmp_path):
    (tmp_path / "watching.py").write_text("import gc\nran = gc.isenabled()\ndef run_stage(config): return ran\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STAGES, "synth", "watching:run_stage")
    try:
        assert stage_function("synth")(None) is False
    finally:
        sys.modules.pop("watching", None)
