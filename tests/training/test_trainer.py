"""The loop in one process: what it computes, logs, refuses and leaves behind. Several processes: tests/distributed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from adhmr.errors import AdhmrError
from adhmr.models.weights import load_weights
from adhmr.signals import EXIT_REQUEUE
from adhmr.training.checkpoint import CheckpointStore
from adhmr.training.tracking import read_metrics
from tests.training.toy import FEATURES, ToyTask, samples, toy_trainer

PLAIN = {"dropout": 0.0, "norm": False}


def test_equals_a_plain_loop(tmp_path):
    """Against AdamW, clipping, warm-up and averaging written out by hand, on whole batches."""
    settings = {"task": PLAIN, "optim": {"clip_norm": 0.5}, "train": {"steps": 12, "log_every": 1}}
    toy_trainer(tmp_path, settings).fit()
    model = ToyTask(**PLAIN).model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    for step, line in enumerate(read_metrics(tmp_path)):
        x, y = samples(range(step * 8, step * 8 + 8))
        lr = 1e-2 * min((step + 1) / 3, 1)
        optimizer.param_groups[0]["lr"] = lr
        error = model(x).squeeze(-1) - y
        error.square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.95, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value
        expected = [error.square().mean().item(), error.abs().mean().item(), norm.item(), lr]
        found = [line[name] for name in ("loss", "absolute", "grad_norm", "lr")]
        assert found == pytest.approx(expected, rel=1e-3)
    for file, wanted in (("model_raw", model.state_dict()), ("model", average)):
        for name, value in load_file(tmp_path / f"{file}.safetensors").items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-3, atol=1e-4)


def test_what_a_run_leaves_behind(tmp_path, capsys):
    trainer = toy_trainer(tmp_path, {"train": {"evaluate_every": 9}})
    metrics = trainer.fit()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [5, 9, 10, 15, 18, 20, 24]
    assert {"loss", "absolute", "grad_norm", "lr", "samples_per_s", "data_wait", "step_time", "peak_memory_gib"} <= set(
        lines[0]
    )
    assert set(lines[1]) == {"step", "evaluation/error"} and lines[-1]["evaluation/error"] == metrics["error"]
    assert 0 <= lines[0]["data_wait"] <= 1 and lines[-1]["elapsed"] > lines[0]["elapsed"] > 0
    assert json.loads((tmp_path / "done.json").read_text()) == {
        "fingerprint": trainer.fingerprint,
        "steps": 24,
        "metrics": metrics,
    }
    _, metadata = load_weights(tmp_path / "model.safetensors")
    assert metadata["kind"] == "toy" and metadata["config"] == {"width": 16}
    assert trainer.task.prepared_on == torch.device("cpu")
    assert "step 24/24" in capsys.readouterr().out


def test_evaluation_is_of_the_averaged_weights(tmp_path):
    metrics = toy_trainer(tmp_path, {"task": PLAIN}).fit()
    task = ToyTask(**PLAIN)
    task.model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert task.evaluate(task.model.eval()) == pytest.approx(metrics)
    task.model.load_state_dict(load_file(tmp_path / "model_raw.safetensors"))
    assert task.evaluate(task.model.eval()) != pytest.approx(metrics)


def test_without_average_both_files_are_the_raw_weights(tmp_path):
    trainer = toy_trainer(tmp_path, {"train": {"ema_decay": None, "evaluate_every": 4}})
    trainer.fit()
    averaged, raw = (load_file(tmp_path / name) for name in ("model.safetensors", "model_raw.safetensors"))
    assert all(torch.equal(averaged[name], raw[name]) for name in raw)
    # An evaluation of the model itself puts it back into training mode: its batch statistics go on to the end.
    assert raw["1.num_batches_tracked"] == 24 * 4


def test_finished_run_returns_at_once(tmp_path, capsys):
    metrics = toy_trainer(tmp_path).fit()
    trainer = toy_trainer(tmp_path)
    trainer.data.stream = None  # must not be called
    assert trainer.fit() == metrics
    assert "already trained to step 24" in capsys.readouterr().out


def test_more_steps_go_on_from_the_end(tmp_path):
    toy_trainer(tmp_path / "twice", {"train": {"steps": 14}}).fit()
    toy_trainer(tmp_path / "twice", {"train": {"steps": 21}}).fit()
    toy_trainer(tmp_path / "once", {"train": {"steps": 21}}).fit()
    twice, once = (load_file(tmp_path / run / "model.safetensors") for run in ("twice", "once"))
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_end_is_finished_after_a_death_between_checkpoint_and_export(tmp_path):
    metrics = toy_trainer(tmp_path).fit()
    expected = load_file(tmp_path / "model.safetensors")
    lines = read_metrics(tmp_path)
    for name in ("done.json", "model.safetensors", "model_raw.safetensors"):
        (tmp_path / name).unlink()
    assert toy_trainer(tmp_path).fit() == metrics
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert read_metrics(tmp_path) == lines


def test_damaged_newest_checkpoint(tmp_path, caplog):
    toy_trainer(tmp_path / "run").fit()
    expected = load_file(tmp_path / "run" / "model.safetensors")
    lines = [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "run")]
    (tmp_path / "run" / "done.json").unlink()
    (tmp_path / "run" / "checkpoints" / "step-00000024" / "optimizer.safetensors").write_bytes(b"torn")
    toy_trainer(tmp_path / "run").fit()
    assert "step-00000024 is damaged (optimizer.safetensors has 4 bytes" in caplog.text
    found = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "run")] == lines


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": {"width": 8}}, "checkpoint of another run .model.width: 16 there, 8 here"),
        ({"seed": 6}, "seed: 5 there, 6 here"),
        ({"optim": {"lr": 0.5}}, "optim.lr: 0.01 there, 0.5 here"),
        ({"train": {"steps": 10}}, "step-00000024 is beyond train.steps=10"),
    ],
)
def test_folder_of_another_run_is_refused(tmp_path, settings, words):
    toy_trainer(tmp_path).fit()
    with pytest.raises(AdhmrError, match=words):
        toy_trainer(tmp_path, settings).fit()


def test_best_checkpoint_is_kept(tmp_path):
    settings = {"train": {"steps": 30, "evaluate_every": 3, "save_every": 100, "keep_last": 1, "best_metric": "error"}}
    task = ToyTask()
    errors = iter([0.9, 0.5, 0.7, 0.4, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6])
    task.evaluate = lambda model: {"error": next(errors)}
    toy_trainer(tmp_path, settings, task).fit()
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["step-00000012", "step-00000030"]
    assert CheckpointStore(tmp_path / "checkpoints", 1, best_metric="error").find_best().name == "step-00000012"


def test_unknown_best_metric(tmp_path):
    with pytest.raises(AdhmrError, match=r"train.best_metric: 'pve' is not evaluated; expected one of \['error'\]"):
        toy_trainer(tmp_path, {"train": {"best_metric": "pve"}}).fit()


def test_skipped_step_leaves_weights_and_statistics_alone(tmp_path):
    toy_trainer(tmp_path, {"train": {"steps": 5, "save_every": 1, "keep_last": 9}, "poison": [17]}).fit()  # step 2
    store = CheckpointStore(tmp_path / "checkpoints", 9)
    before, after = (store.load(tmp_path / "checkpoints" / f"step-0000000{step}") for step in (2, 3))
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        assert torch.equal(before.model[name], after.model[name]), name
        assert torch.equal(before.ema[name], after.ema[name]), name
    assert (before.state["skipped"], after.state["skipped"], after.state["updates"]) == (0, 1, 2)
    assert not torch.equal(after.model["0.weight"], load_file(tmp_path / "model_raw.safetensors")["0.weight"])


def test_stream_that_ends_is_an_error(tmp_path):
    trainer = toy_trainer(tmp_path)
    trainer.data.stream = lambda *arguments: iter([])
    with pytest.raises(AdhmrError, match="stream ended at step 0 of 24"):
        trainer.fit()


def test_stream_is_closed_and_handlers_are_put_back(tmp_path):
    import signal

    trainer = toy_trainer(tmp_path, {"signal_at": 3})
    closed = []
    factory = trainer.data.stream

    def watched(*arguments):
        try:
            yield from factory(*arguments)
        finally:
            closed.append(True)

    trainer.data.stream = watched
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as leaving:
        trainer.fit()
    assert leaving.value.code == EXIT_REQUEUE
    assert closed == [True] and signal.getsignal(signal.SIGTERM) == former


def test_bf16_computes_in_bf16_with_fp32_weights(tmp_path):
    seen = []

    class Watching(ToyTask):
        def __init__(self):
            super().__init__(**PLAIN)
            self.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    task = Watching()
    toy_trainer(tmp_path, {"train": {"precision": "bf16", "steps": 6}}, task).fit()
    assert seen[0] == torch.bfloat16
    assert {value.dtype for value in load_file(tmp_path / "model_raw.safetensors").values()} == {torch.float32}
    # Accelerate's autocast is off the module afterwards.
    assert task.model(torch.zeros(1, FEATURES)).dtype == torch.float32 and seen[-1] == torch.float32
    # Another stage in the same process may use another precision and accumulation.
    seen.clear()
    toy_trainer(tmp_path / "next", {"train": {"steps": 2, "micro_batch": 8}}, Watching()).fit()
    assert seen[0] == torch.float32


def test_bf16_does_not_leak_into_raw_evaluation_dtype(tmp_path):
    metrics = toy_trainer(tmp_path, {"task": PLAIN, "train": {"precision": "bf16"}}).fit()
    task = ToyTask(**PLAIN)
    task.model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert task.evaluate(task.model.eval()) == pytest.approx(metrics, rel=1e-6)


def test_learns(tmp_path):
    settings = {"task": PLAIN, "train": {"steps": 300, "log_every": 50, "save_every": 300}}
    toy_trainer(tmp_path, settings).fit()
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]
