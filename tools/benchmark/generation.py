"""How fast preferences are generated at paper size: images/s and hypotheses/s of a whole unit through the real
Generator and PreferenceSet, from shards to shards, and what share of the time each part takes.

Baselines, measured in turn with it in the same run: a straightforward loop of the same modules, in fp32 (one image at a
time, its memory repeated for each hypothesis, the scorer running its own encoder, meshes of all hypotheses, nothing at
the same time), and the denoiser alone in the same precision and calls. Three ways of ranking: without a scorer (mode),
HMR-Scorer with its own vision transformer, and a scorer on the base model's encoder. Weights are random, which costs
the same. The last line is JSON.

    python tools/benchmark/generation.py [--images 4 --hypotheses 50 --rounds 3 --precision bf16]
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from adhmr.body.codec import PoseCodec
from adhmr.body.hypotheses import Hypotheses
from adhmr.config.data import CropConfig
from adhmr.config.generation import GenerateSet, GenerateStage
from adhmr.config.loading import load_config
from adhmr.config.model import BaseModelConfig, ScorerConfig
from adhmr.data.shard_reader import ShardReader
from adhmr.data.shard_writer import write_shard
from adhmr.data.synthetic.build import synthesise
from adhmr.diffusion.sampler import ddim_sample
from adhmr.models.base_model import BaseModel
from adhmr.models.encoder import ImageFeatures
from adhmr.models.scorer import HMRScorer
from adhmr.models.weights import load_model, save_weights
from adhmr.preference.crops import CropCutter
from adhmr.preference.generator import Generator
from adhmr.preference.hypotheses import pose_hypotheses, sample_hypotheses
from adhmr.preference.packing import Sampled, pack
from adhmr.preference.preference_set import PreferenceSet
from adhmr.preference.rankings import RANKINGS, RankingContext

REPOSITORY = Path(__file__).resolve().parents[2]
GOALS = {"cpu": {"plain": 4.0, "denoiser": 0.85}, "cuda": {"plain": 10.0, "denoiser": 0.85}}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RANKED = {"no scorer": "mode", "own encoder": "scorer", "shared encoder": "scorer"}


def write_weights(folder: Path, base: BaseModelConfig, scorer: ScorerConfig) -> None:
    """base.safetensors, and scorers by the names of RANKED; one has the base model's encoder."""
    torch.manual_seed(0)
    model = BaseModel(base)
    save_weights(folder / "base.safetensors", model, "base", base.model_dump(mode="json"))
    save_weights(folder / "own encoder.safetensors", HMRScorer(scorer), "scorer", scorer.model_dump(mode="json"))
    sizes = base.denoiser.model_dump(include={"dim", "local_dim", "heads", "reaches", "ffn"})
    square = {"encoder": base.encoder.model_dump(), "crop_size": base.crop_size, "crop_aspect": 1.0}
    config = ScorerConfig(**{**scorer.model_dump(), **sizes, **square})
    shared = HMRScorer(config)
    shared.encoder = model.encoder
    save_weights(folder / "shared encoder.safetensors", shared, "scorer", config.model_dump(mode="json"))


def repeated(features: ImageFeatures, count: int) -> ImageFeatures:
    """The features of each image `count` times: every hypothesis with its own copy of the memory."""
    return ImageFeatures(*(None if part is None else part.repeat_interleave(count, 0) for part in features))


class PlainLoop:
    """What anybody would write: one call makes a shard of some rows."""

    def __init__(self, generator: Generator, scorer: Path | None, ranking: str):
        self.generator, self.ranking = generator, ranking
        self.scorer = None if scorer is None else load_model(scorer, "scorer").to(generator.device)

    @torch.no_grad()
    def __call__(self, reader: ShardReader, rows: range, path: Path) -> None:
        generator, samples = self.generator, []
        cutter = CropCutter(reader, generator.config, exact=False)
        for row in rows:
            crop = cutter(row)
            batch = generator.on_device([crop])
            features = generator.base.encoder(batch["image"])
            hypotheses = self.sampled(features, batch["noise"])
            posed = pose_hypotheses(
                generator.body, hypotheses, features.betas, batch["intrinsics"], batch["root_depth"]
            ).flatten(0, 1)
            generator.body(posed, features.betas.expand(len(posed), -1))
            context = RankingContext(
                batch["key"], batch["image"], features, hypotheses, generator.config.crop.size, 0, self.score
            )
            values = {self.ranking: RANKINGS[self.ranking](context)}
            sampled = Sampled(hypotheses, values, None, features)
            samples += pack(generator.config, generator.provenance, [self.ranking], [crop], sampled)[self.ranking]
        write_shard(path, samples)

    def sampled(self, features: ImageFeatures, noise: torch.Tensor) -> Hypotheses:
        """Of one image, (1, M)."""
        rows = noise.transpose(0, 1)  # (M, 1, 133): every hypothesis an image of its own
        x = ddim_sample(self.generator.base.denoiser, repeated(features, len(rows)), 1, rows, zero_first=False)
        uvd, twists = PoseCodec(self.generator.config.crop.size).decode(*x)
        return Hypotheses(uvd.transpose(0, 1), twists.transpose(0, 1))

    def score(self, image: torch.Tensor, _: ImageFeatures, hypotheses: Hypotheses) -> torch.Tensor:
        """(1, M), by the scorer's own pass over the image."""
        image, hypotheses = self.scorer.framed(image, hypotheses)
        count = hypotheses.uvd.shape[1]
        features = repeated(self.scorer.features(image), count)
        each = Hypotheses(hypotheses.uvd.transpose(0, 1), hypotheses.twists.transpose(0, 1))
        return self.scorer.score(features, each, tuple(image.shape[-2:])).T


class Parts:
    """The parts of a batch one after the other, each with its time: what they cost when nothing is hidden."""

    def __init__(self, generator: Generator, ranking: str):
        self.generator, self.ranking = generator, ranking
        self.seconds: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable):
        begin = time.perf_counter()
        result = work()
        wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - begin)
        return result

    def __call__(self, reader: ShardReader, rows: range, path: Path) -> None:
        generator, ranking = self.generator, self.ranking
        cutter = CropCutter(reader, generator.config, exact=True)
        crops = self.timed("read, crop", lambda: [cutter(row) for row in rows])
        batch = generator.on_device(crops)
        features = self.timed("encoder", lambda: generator.encoded(batch))
        sampled = self.timed("denoiser", lambda: generator.hypotheses(batch, features, [ranking]))
        values = self.timed("scoring", lambda: generator.values(batch, features, sampled, None, [ranking]))

        def errors() -> torch.Tensor:
            posed = generator.posed(sampled, features.betas, batch)
            return generator.errors(batch, features, posed)

        self.timed("errors, if asked for", errors)

        def write() -> None:
            parts = Sampled(sampled, values, None, features)
            write_shard(path, pack(generator.config, generator.provenance, [ranking], crops, parts)[ranking])

        self.timed("pair, write", write)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


class Setting:
    """One way of ranking: the unit, its baselines and its parts, and their times."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace):
        scorer = None if name == "no scorer" else folder / f"{name}.safetensors"
        self.config = GenerateStage(
            stage="generate",
            output=folder / "output",
            base=folder / "base.safetensors",
            scorer=scorer,
            sets=[{"path": folder / "set", "rankings": [RANKED[name]]}],
            crop=CropConfig(size=options.crop_size, padding=1.25),
            hypotheses=options.hypotheses,
            images_per_batch=options.images_per_batch,
            hypotheses_per_call=options.hypotheses_per_call,
            unit=options.images,
            precision=options.precision,
        )
        self.generator = Generator(self.config)
        self.reader, self.rows = ShardReader(folder / "set"), range(options.images)
        self.plain = PlainLoop(self.generator, scorer, RANKED[name])
        self.parts = Parts(self.generator, RANKED[name])
        self.times: dict[str, list[float]] = {}
        self.name = name

    def work(self) -> dict[str, Callable[[], object]]:
        shard = self.config.output.parent / "shard.tar"
        return {
            "generation": self.unit,
            "denoiser": self.denoiser,
            "plain": lambda: self.plain(self.reader, self.rows, shard),
            "parts": lambda: self.parts(self.reader, self.rows, shard),
        }

    def unit(self) -> None:
        shutil.rmtree(self.config.output, ignore_errors=True)
        (shards, _) = PreferenceSet(self.generator, GenerateSet(**self.config.sets[0].model_dump())).works("benchmark")
        shards.make("000000", lambda: None)

    def denoiser(self) -> None:
        """As many hypotheses from features that are there."""
        config, base = self.config, self.generator.base
        for start in range(0, len(self.rows), config.images_per_batch):
            images = len(self.rows[start : start + config.images_per_batch])
            features = random_features(base.config, images)
            noise = torch.randn(images, config.hypotheses, 133, device=DEVICE)
            sample_hypotheses(
                base, features, noise, config.crop.size, config.precision, per_call=config.hypotheses_per_call
            )

    def measure(self) -> None:
        for name, run in self.work().items():
            self.times.setdefault(name, []).append(seconds(run))

    def forget(self) -> None:
        """The first round chooses kernels."""
        self.times, self.parts.seconds = {}, {}

    def figures(self) -> dict[str, object]:
        images, count = len(self.rows), len(self.rows) * self.config.hypotheses
        own, denoiser, plain = (self.times[name] for name in ("generation", "denoiser", "plain"))
        parts = {name: sum(times) for name, times in self.parts.seconds.items()}
        asked = parts.pop("errors, if asked for")
        total = sum(parts.values())
        return {
            "images_per_s": round(images / median(own), 3),
            "hypotheses_per_s": round(count / median(own), 1),
            "range": [round(count / max(own), 1), round(count / min(own), 1)],
            "times_faster_than_plain": round(median(slow / fast for slow, fast in zip(plain, own)), 2),
            "share_of_denoiser": round(median(alone / whole for alone, whole in zip(denoiser, own)), 3),
            "shares_of_parts": {name: round(part / total, 3) for name, part in parts.items()},
            "errors_if_asked_for": round(asked / total, 3),
            "parts_one_after_another_to_generation": round(
                median(apart / whole for apart, whole in zip(self.times["parts"], own)), 3
            ),
        }


def random_features(config: BaseModelConfig, images: int) -> ImageFeatures:
    """What the denoiser reads of an encoder, made up."""
    rows, columns = config.encoder.memory_grid(config.crop_size, config.crop_size)
    memory = torch.randn(images, rows * columns, config.encoder.memory_dim, device=DEVICE)
    local = torch.randn(images, 52, config.encoder.local_dim, device=DEVICE)
    zeros = torch.zeros(images, 29, 2, device=DEVICE)
    return ImageFeatures(memory, None, local, zeros, None, None, torch.zeros(images, 10, device=DEVICE))


def main() -> None:
    on_cpu = DEVICE == "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "paper"], default="paper")
    parser.add_argument("--images", type=int, default=4 if on_cpu else 256, help="in the unit that is made")
    parser.add_argument("--images-per-batch", type=int, default=2 if on_cpu else 32)
    parser.add_argument("--hypotheses", type=int, default=50, help="M")
    parser.add_argument("--hypotheses-per-call", type=int, default=100 if on_cpu else 1600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    options = parser.parse_args()
    base = load_config(REPOSITORY / f"configs/models/{options.size}.yaml", [], BaseModelConfig)
    options.crop_size = base.crop_size
    figures: dict[str, object] = {
        "benchmark": "generation",
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        **vars(options),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesise("synth-studio", folder / "set", options.images, processes=1, image_size=256)
        write_weights(folder, base, load_config(REPOSITORY / "configs/models/hmr-scorer.yaml", [], ScorerConfig))
        for setting in (Setting(ranked, folder, options) for ranked in RANKED):
            setting.measure()
            setting.forget()
            for _ in range(options.rounds):  # in turn, so that a neighbour on the machine disturbs all alike
                setting.measure()
            figures[setting.name] = found = setting.figures()
            parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found["shares_of_parts"].items())
            print(
                f"{setting.name}: {found['images_per_s']:.2f} images/s, {found['hypotheses_per_s']:.1f} hypotheses/s, "
                f"{found['times_faster_than_plain']:.1f} x the plain loop, {100 * found['share_of_denoiser']:.0f} % of "
                f"the denoiser's rate\n    {parts}; errors would take {100 * found['errors_if_asked_for']:.1f} %",
                flush=True,
            )
    goal = GOALS[DEVICE]
    found = figures["no scorer"]
    figures["goal"] = goal
    figures["reached"] = {
        "plain": found["times_faster_than_plain"] >= goal["plain"],
        "denoiser": found["share_of_denoiser"] >= goal["denoiser"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
