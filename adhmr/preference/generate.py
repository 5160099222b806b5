"""The stage generate: this process is one of the workers on its preference folders. What becomes of a unit is in
preference_set.py, what a device does for it in generator.py, how workers share the work in worker.py."""

from __future__ import annotations

from adhmr.config.generation import GenerateStage
from adhmr.preference.generator import Generator
from adhmr.preference.preference_set import PreferenceSet
from adhmr.preference.sharing import STOP_MARGIN, share
from adhmr.preference.worker import Work
from adhmr.signals import StopRequest


def generate(generator: Generator, stop: StopRequest) -> None:
    """Be one of the workers on the output of a stage, until all is done or `stop` says to leave."""
    config = generator.config
    sets = [PreferenceSet(generator, chosen) for chosen in config.sets]

    def works_of(worker: str) -> list[Work]:
        return [work for chosen in sets for work in chosen.works(worker)]

    units = {chosen.name: len(chosen.units) for chosen in sets}
    share(config.output, config.ledger, units, works_of, generator.device, stop, generator.check_device)


def run_stage(config: GenerateStage) -> None:
    with StopRequest(margin=STOP_MARGIN) as stop:
        generate(Generator(config), stop)
