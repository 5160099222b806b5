"""metrics.jsonl over restarts, and the real wandb package offline."""

import pytest

from adhmr.config.training import TrackingConfig
from adhmr.training.tracking import Tracker, read_metrics


def test_one_line_a_step_over_restarts(tmp_path):
    with Tracker(tmp_path, TrackingConfig(), 0, {}) as tracker:
        for step in (5, 10, 15):
            tracker.write(step, {"loss": float(step)})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')  # died while writing
    with Tracker(tmp_path, TrackingConfig(), 12, {}) as tracker:
        tracker.write(15, {"loss": -15.0})
        assert read_metrics(tmp_path)[-1] == {"step": 15, "loss": -15.0}  # readable while the run is on
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 5.0), (10, 10.0), (15, -15.0)]


def test_a_new_start_empties_the_file_and_other_ranks_write_nothing(tmp_path):
    with Tracker(tmp_path, TrackingConfig(), 0, {}) as tracker:
        tracker.write(5, {"loss": 1.0})
    with Tracker(tmp_path, TrackingConfig(wandb="offline"), 0, {}, active=False) as tracker:
        tracker.write(6, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [5]
    with Tracker(tmp_path, TrackingConfig(), 0, {}):
        pass
    assert read_metrics(tmp_path) == []


@pytest.mark.slow
def test_wandb_offline_keeps_its_run_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = TrackingConfig(wandb="offline", project="toy", tags=["test"])
    for resume_step in (0, 5):
        with Tracker(tmp_path, config, resume_step, {"model": {"width": 3}}) as tracker:
            assert tracker._wandb.id == (tmp_path / "wandb_id").read_text()
            assert tracker._wandb.config["model"] == {"width": 3}
            tracker.write(resume_step + 5, {"loss": 1.0})
            assert tracker._wandb.summary["loss"] == 1.0
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert {folder.name.rsplit("-", 1)[1] for folder in runs} == {(tmp_path / "wandb_id").read_text()}
    assert all(next(folder.glob("*.wandb")).stat().st_size > 0 for folder in runs)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]
