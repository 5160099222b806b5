"""The tables as one pipeline: it plans for every kind of data, once data and first weights are there."""

from pathlib import Path

import pytest

from adhmr.config.generation import GenerateStage
from launchers.pipeline import plan_pipeline
from launchers.stage_inputs import paths_read

EXPERIMENTS = Path(__file__).resolve().parents[2] / "configs" / "experiments"
PAPER = ["recipes=paper", "wild=instavariety", "reward=scorer-0"]
EMBEDDED = [
    *(f"data/synth-{name}-train" for name in ("studio", "game", "bench", "wild")),
    *("data/synth-bench-val", "data/synth-bench-test", "data/synth-game-test"),
    *("scorer-data/synth-studio-train", "scorer-data/synth-game-train"),
]
REAL_TRAINED = [
    *("h36m", "coco", "3dhp", "3dpw", "mpii", "up3d", "instavariety"),
    *("hi4d", "bedlam", "renbody", "gta-human2", "spec"),
]
BROUGHT = [
    *(f"runs/synth/{name}" for name in EMBEDDED),
    *(f"runs/synth-large/{name}" for name in EMBEDDED),
    *(f"data/shards/{name}-train" for name in REAL_TRAINED),
    *(f"data/shards/{name}-test" for name in ("3dpw", "h36m", "renbody", "gta-human2")),
    *(f"data/smpl/{name}" for name in ("SMPL_NEUTRAL.pkl", "J_regressor_h36m.npy", "h36m_mean_beta.npy")),
    *("weights/pose_hrnet_w48.safetensors", "weights/smpler_x_b32.safetensors"),
    *("adhmr/assets/encoder_tiny.safetensors", "runs/synth-large/encoder/model.safetensors"),
    "runs/paper/base-h36m-30/model_raw.safetensors",
]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Empty folders and files in place of everything that a user has before the pipeline starts."""
    for name in BROUGHT:
        path = tmp_path / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("file", "overrides", "output"),
    [
        ("tables", [], "runs/synth"),
        ("tables-large", [], "runs/synth-large"),
        ("tables", ["recipes=synth/large"], "runs/synth/large"),
        ("tables-3dpw", [], "runs/paper-3dpw"),
        ("tables-h36m", [], "runs/paper-h36m"),
        ("tables", [*PAPER, "target=3dpw", "studio=3dpw"], "runs/paper"),
        ("tables", [*PAPER, "target=h36m", "studio=h36m"], "runs/paper"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_the_tables_plan_for_every_kind_of_data(stand_ins, file, overrides, output):
    stages = plan_pipeline(EXPERIMENTS / f"{file}.yaml", [*overrides, "seeds=[0]"])
    runs = {stage.name: stage.config for stage in stages}
    assert {str(stage.folder.parent) for stage in stages} == {output}
    assert {f"table-{number}" for number in range(1, 6)} | {"figure-2"} <= set(runs)
    # Whatever is read is brought along or made by an earlier stage (the plan sees to it), and then where it is made:
    pairs = {
        f"{config.output}/{Path(item.path).name}-{ranking}"
        for config in runs.values()
        if isinstance(config, GenerateStage)
        for item in config.sets
        for ranking in item.rankings
    }
    cleaned = {f"{output}/clean/{Path(path).name}" for path in runs["clean"].sets}
    assert {item.path for item in runs["regressor-cleaned-0"].data.sets} == cleaned
    for name in ("dpo-0", "dpo-wild-0", "dpo-tuned-0"):
        assert {str(item.path) for item in runs[name].preferences} <= pairs
    read = {text for config in runs.values() for _, text in paths_read(config)}
    elsewhere = {text for text in read if text.startswith("runs/") and not text.startswith(f"{output}/")}
    assert elsewhere <= set(BROUGHT)


def test_both_targets_of_the_paper_differ_in_the_target_alone(stand_ins):
    first, second = (plan_pipeline(EXPERIMENTS / f"tables-{name}.yaml", ["seeds=[0]"]) for name in ("3dpw", "h36m"))
    assert [stage.name for stage in first] == [stage.name for stage in second]
    crops = {"3dpw": 1.5, "h36m": 1.2}
    for target, stages in zip(crops, (first, second)):
        runs = {stage.name: stage.config for stage in stages}
        for name in ("pairs-studio", "table-2", "table-3", "figure-2"):
            assert runs[name].crop.padding == crops[target]
        assert runs["table-2"].protocol.name == target and target in runs["table-2"].data
        assert runs["pairs-wild"].crop.padding == 1.2  # people of other sets, for both
    scorers = [next(stage.config for stage in stages if stage.name == "scorer-0") for stages in (first, second)]
    assert scorers[0] == scorers[1].model_copy(update={"output": scorers[0].output})
