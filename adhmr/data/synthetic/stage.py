"""Stage "synth": several embedded data sets at once, each in a folder output/<set>-<split>/."""

from adhmr.config.stages import SynthStage
from adhmr.data.synthetic.build import synthesise


def run_stage(config: SynthStage) -> None:
    """Render what is not there yet; a rerun continues after the last whole shard."""
    for chosen in config.sets:
        synthesise(
            chosen.name,
            config.output / f"{chosen.name}-{chosen.split}",
            max(1, round(chosen.count * config.scale)),
            seed=config.seed,
            split=chosen.split,
            processes=config.processes,
            image_size=config.image_size,
            samples_per_shard=config.samples_per_shard,
        )
