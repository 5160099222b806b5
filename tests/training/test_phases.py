"""Runs whose mixture and batch change: planned, decided at a restart, refused, interrupted; their batches replayed."""

import json

import cv2
import pytest
import torch
from safetensors.torch import load_file

from adhmr.errors import AdhmrError
from adhmr.signals import EXIT_REQUEUE
from adhmr.training.replay import replay
from adhmr.training.run import TASKS, run_stage
from adhmr.training.tasks.base import BaseTask
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tracking import read_metrics
from tests.tiny import CROP, adhmr
from tests.training.toy import toy_trainer

PHASES = [
    {"from_step": 2, "weights": {"studio": 1.0, "game": 3.0}},
    {"from_step": 4, "global_batch": 6},
]


@pytest.fixture(scope="session")
def game_set(tmp_path_factory):
    from adhmr.data.synthetic.build import synthesise

    folder = tmp_path_factory.mktemp("people") / "game"
    synthesise("synth-game", folder, 8, seed=4, processes=1, image_size=64, samples_per_shard=4)
    return folder


@pytest.fixture
def phased(base_config, studio_set, game_set, tmp_path):
    """Makes the config of a run of 6 steps over two sets, the second drawn only by phases."""

    def make(name, phases, steps=6, micro_batch=None, **data):
        sets = [{"path": str(studio_set), "weight": 1.0}, {"path": str(game_set), "weight": 0.0}]
        train = {"steps": steps, "global_batch": 4, "micro_batch": micro_batch}
        train |= {"log_every": 1, "save_every": 2, "ema_decay": None}
        values = {"sets": sets, "crop": CROP, "workers": 0, "period": 8, "phases": phases, **data}
        return base_config(output=tmp_path / name, data=values, train=train)

    return make


@pytest.fixture
def consumed(monkeypatch):
    """What the tasks' losses were given: (position, key) in order."""
    seen = []
    for task in (BaseTask, DpoTask):
        loss = task.loss

        def watched(self, model, batch, loss=loss):
            seen.append(list(zip(batch["position"].tolist(), batch["key"], strict=True)))
            return loss(self, model, batch)

        monkeypatch.setattr(task, "loss", watched)
    return seen


def go(config):
    config.output.mkdir(exist_ok=True)
    (config.output / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    run_stage(config)


def same_weights(*folders):
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    return all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------------------------------ runs
def test_a_phase_decided_at_a_restart_is_a_planned_one(phased, consumed):
    planned, later = phased("planned", PHASES), phased("later", PHASES)
    go(planned)
    straight = list(consumed)
    assert [len(step) for step in straight] == [4, 4, 4, 4, 6, 6]
    go(phased("later", PHASES[:1], steps=3))
    assert (later.output / "done.json").exists()
    go(later)  # the finished run goes on: the phase from step 4 is new
    assert consumed[6:] == straight
    assert same_weights(planned.output, later.output)
    assert [line["loss"] for line in read_metrics(later.output)][3:] == [
        line["loss"] for line in read_metrics(planned.output)
    ][3:]


def test_the_past_of_a_run_cannot_change(phased):
    go(phased("run", [], steps=4))
    go(phased("run", [{"from_step": 4, "weights": {"game": 1.0}}], steps=5))
    for phases, words in (
        (PHASES[:1], r"the mixture from step 2 on was none .* checkpoint is of step 5.* a phase from step 5 on"),
        ([], r"the mixture from step 4 on was {'game': 1.0} and is now none"),
    ):
        with pytest.raises(AdhmrError, match=words):
            run_stage(phased("run", phases, steps=6))


def test_the_phase_that_does_not_divide_is_named_before_training(phased, tmp_path):
    config = phased("run", [{"from_step": 3, "global_batch": 9}], micro_batch=2)
    with pytest.raises(AdhmrError, match="the phase's global_batch from step 3 on, 9 is not a multiple of 1 processes"):
        run_stage(config)
    assert not (config.output / "metrics.jsonl").exists()


def test_changing_batches_equal_one_micro_batch_a_step(tmp_path):
    """Accumulation follows the phase: the same means over the same samples, however they are cut."""
    curves = []
    for micro_batch in (2, 4, None):
        settings = {
            "train": {"steps": 9, "log_every": 1, "micro_batch": micro_batch},
            "task": {"dropout": 0.0, "norm": False},
            "changes": [(3, 12), (6, 4)],
        }
        toy_trainer(tmp_path / str(micro_batch), settings).fit()
        curves.append([(line["loss"], line["grad_norm"]) for line in read_metrics(tmp_path / str(micro_batch))])
    for line in zip(*curves, strict=True):
        assert line[1] == pytest.approx(line[0], rel=1e-4) and line[2] == pytest.approx(line[0], rel=1e-4)


@pytest.mark.parametrize("stop", [3, 4, 7])
def test_an_interrupted_run_with_changing_batches_is_exact(tmp_path, stop):
    settings = {"train": {"steps": 9}, "changes": [(3, 12), (6, 4)]}
    toy_trainer(tmp_path / "straight", settings).fit()
    with pytest.raises(SystemExit) as leaving:
        toy_trainer(tmp_path / "stopped", {**settings, "signal_at": stop}).fit()
    assert leaving.value.code == EXIT_REQUEUE
    toy_trainer(tmp_path / "stopped", settings).fit()
    assert same_weights(tmp_path / "straight", tmp_path / "stopped")


# ------------------------------------------------------------------------------------------------ replay
def listed(output, step):
    document = json.loads((output / f"step-{step}.json").read_text())
    return [(sample["position"], sample["key"]) for sample in document["samples"]]


def test_replay_shows_what_the_trainer_consumed(phased, consumed, tmp_path):
    config = phased("run", PHASES, augment={}, skip_ranges=[[5, 7]])
    go(config)
    for step in (0, 1, 3, 5):
        lines = replay(config.output, step)
        assert listed(config.output / "replay", step) == consumed[step]
        assert f"step {step}: {len(consumed[step])} samples" in lines[0]
        assert cv2.imread(str(config.output / "replay" / f"step-{step}.jpg")) is not None
    document = json.loads((config.output / "replay" / "step-5.json").read_text())
    assert {sample["set"] for sample in document["samples"]} <= {"studio", "game"}
    assert set(document["samples"][0]) == {"position", "set", "epoch", "row", "key", "shard", "substituted"}
    whole = cv2.imread(str(config.output / "replay" / "step-5.jpg"))
    replay(config.output, 5, tmp_path / "elsewhere", limit=2)
    assert cv2.imread(str(tmp_path / "elsewhere" / "step-5.jpg")).shape[1] < whole.shape[1]
    assert listed(tmp_path / "elsewhere", 5) == consumed[5]
    with pytest.raises(AdhmrError, match="has steps 0 to 5"):
        replay(config.output, 6)


def test_replay_of_scorer_and_alignment(scorer_config, dpo_config, consumed):
    for config in (scorer_config(), dpo_config(preferences=dpo_config().preferences, augment={})):
        assert type(config) in TASKS
        consumed.clear()
        go(config)
        replay(config.output, 1)
        found = listed(config.output / "replay", 1)
        assert [position for position, _ in found] == [4, 5, 6, 7]
        assert not consumed or found == consumed[1]  # the scorer's loss is not watched


def test_replay_says_when_data_have_changed(phased, game_set, tmp_path):
    config = phased("run", PHASES, steps=4)
    go(config)
    settings = config.model_dump(mode="json")
    settings["data"]["sets"][1]["padding"] = 2.0
    (config.output / "config.yaml").write_text(json.dumps(settings))
    assert "data set game: padding was None in step 3, drawn with 2.0" in replay(config.output, 3)[0]
    settings["data"]["sets"][1] |= {"path": settings["data"]["sets"][0]["path"], "name": "game"}
    (config.output / "config.yaml").write_text(json.dumps(settings))
    with pytest.raises(AdhmrError, match="data set game has changed since step 3"):
        replay(config.output, 3)
    assert replay(config.output, 1)


@pytest.mark.slow
def test_replay_as_a_command(phased):
    config = phased("run", PHASES, steps=1)
    config.output.mkdir()
    (config.output / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    done = adhmr("data", "replay", config.output, "--step", 0)
    assert done.returncode == 0, done.stderr
    assert "has no checkpoint: taken as" in done.stdout and "step 0: 4 samples from position 0 on" in done.stdout
    with pytest.raises(AdhmrError, match="cannot read this config file"):
        replay(config.output / "nothing", 0)
