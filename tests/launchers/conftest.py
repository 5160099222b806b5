"""What the tests of pipelines share."""

from pathlib import Path

import pytest
import yaml

from launchers import pipeline_local


class Recorder:
    """Stands in for the stages' processes: notes the folder's name, writes a result, fails where it is told to."""

    def __init__(self):
        self.ran: list[str] = []
        self.codes: dict[str, int] = {}

    def __call__(self, config: Path, lock: int) -> int:
        self.ran.append(config.parent.name)
        assert yaml.safe_load(config.read_text())["output"] == str(config.parent)
        with (config.parent / "result").open("a") as file:
            file.write("made\n")
        return self.codes.get(config.parent.name, 0)

    def take(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(pipeline_local, "_run_stage", recorder)
    return recorder
