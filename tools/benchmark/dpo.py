"""What a step of alignment costs at paper size, per pair: time of forward, backward and AdamW, and memory, with one
saving of the reference's price after the other.

Baseline: the plain way, written out here: policy and reference as two whole models, each with its own encoder pass for
every pair, winner and loser one after the other. "released code" trains the encoder too, as the official code does;
it and what begins with "shared encoder" are the real DpoTask. Every variant has the same pairs, weights and noise, and
a process of its own, which gives its memory; they run in turn. Weights and images are random, which costs the same. The
last line is JSON.

    python tools/benchmark/dpo.py [--images 2 --pairs 4 --steps 2 --rounds 2 --precision fp32 --model FILE]
"""

import argparse
import copy
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adhmr.config.alignment import DpoStage, ReferenceStage
from adhmr.config.loading import load_config
from adhmr.config.model import BaseModelConfig
from adhmr.data.schema import SAMPLE_DTYPE
from adhmr.data.shard_writer import ShardWriter
from adhmr.data.stream import PositionDataSet, collate, open_sets
from adhmr.models.base_model import BaseModel
from adhmr.models.weights import load_model, save_weights, weights_hash
from adhmr.objectives.preference import GroupErrors, dpo
from adhmr.preference.records import PAIR_DTYPE, encode_array, encoder_hash, features_to_array
from adhmr.training.data import data_of
from adhmr.training.reference_errors import plan_of
from adhmr.training.reference_stage import run_stage as run_reference
from adhmr.training.tasks.dpo import DpoTask
from adhmr.training.tasks.pairs import shown
from adhmr.training.tasks.reference import denoising_errors, network_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
GOALS = {"shared encoder": 2.0, "stored features": 8.0}  # times the plain way, per pair
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
Step = Callable[[dict], Tensor]

VARIANTS: dict[str, dict] = {  # settings of the run, and how the pairs are laid out
    "released code": {"features": "images", "images_repeated": True, "train_encoder": True},
    "plain": {"features": "images", "apart": True, "own_passes": True, "images_repeated": True},
    "winner with loser": {"features": "images", "own_passes": True, "images_repeated": True},
    "shared encoder": {"features": "images", "images_repeated": True},
    "pairs of an image": {"features": "images"},
    "stored features": {"features": "stored"},
    "stored errors": {"features": "stored", "errors": True},
}


# ------------------------------------------------------------------------------------------------ what all read
def prepare(folder: Path, images: int, pairs: int, precision: str, model: Path) -> None:
    """base.safetensors, a preference folder and the reference's errors below `folder`."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = load_config(model, [], BaseModelConfig)
    size = config.crop_size
    save_weights(folder / "base.safetensors", random_model(config), "base", config.model_dump(mode="json"))
    base = load_model(folder / "base.safetensors", "base")
    provenance = {"base": weights_hash(folder / "base.safetensors"), "encoder": encoder_hash(base.encoder)}
    with ShardWriter(folder / "preferences", source="random crops", split="train", licence="none") as writer:
        for number in range(images):
            image = cv2.GaussianBlur(rng.integers(0, 256, (size, size, 3), np.uint8), (0, 0), 4)
            jpeg = cv2.imencode(".jpg", image)[1].tobytes()
            seen = torch.from_numpy(cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)[..., ::-1].transpose(2, 0, 1).copy())
            with torch.no_grad():
                features = base.encoder(seen[None])
            record = np.zeros((), SAMPLE_DTYPE)[()]
            record["image_size"] = size
            chosen = np.zeros(pairs, PAIR_DTYPE)
            for side in ("winner", "loser"):
                chosen[f"{side}_uvd"] = rng.uniform(0, 1, (pairs, 29, 3)) * (size, size, 0.5)
                chosen[f"{side}_twists"] = rng.standard_normal((pairs, 23, 2))
            chosen["winner_value"] = 1.0
            extras = {
                "pairs.npy": encode_array(chosen),
                "features.npy": encode_array(features_to_array(features, 0, "fp32")),
            }
            writer.write(f"{number:06d}", jpeg, record, provenance, extras)
    keys = run_keys(folder, images, pairs, precision)
    own = {"stage": "reference", "output": folder / "errors", "unit": images, "images_per_batch": images, "workers": 0}
    run_reference(ReferenceStage(**{**keys, **own}))


def random_model(config: BaseModelConfig) -> BaseModel:
    """Its running statistics are those of random images: with others the features of random weights have no bounds, and
    the losses of the variants could not be compared."""
    model = BaseModel(config)
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.encoder.train()(torch.randint(0, 256, (2, 3, config.crop_size, config.crop_size), dtype=torch.uint8))
    return model.eval()


def run_keys(folder: Path, images: int, pairs: int, precision: str) -> dict:
    return {
        "output": folder / "run",
        "base": folder / "base.safetensors",
        "preferences": [{"path": folder / "preferences"}],
        "pairs_per_image": pairs,
        "features": "stored",
        "train": {"steps": 1, "global_batch": images, "precision": precision},
        "optim": {},
    }


# ------------------------------------------------------------------------------------------------ one variant
def measure(name: str, options: argparse.Namespace) -> dict:
    """Loss of the first step without dropout; seconds and operations of the others; memory of weights and steps, GB."""
    variant = VARIANTS[name]
    keys = {**run_keys(options.folder, options.images, options.pairs, options.precision), "stage": "dpo"}
    keys |= {"features": variant["features"], "train_encoder": variant.get("train_encoder", False)}
    if variant.get("errors"):
        keys["reference_errors"] = options.folder / "errors"
    before = resident()
    task = DpoTask(DpoStage(**keys))
    batch = as_laid_out(batch_of(task, options.images), options.pairs, variant.get("images_repeated", False))
    step, networks = own_passes(task, variant.get("apart", False)) if variant.get("own_passes") else real(task)
    perturb(task.model)
    task.prepare(DEVICE)
    for network in networks:
        network.to(DEVICE)
    batch = {name: value.to(DEVICE) if torch.is_tensor(value) else value for name, value in batch.items()}
    optimizer = torch.optim.AdamW([p for p in task.model.parameters() if p.requires_grad], lr=0.0, fused=ON_GPU)

    def whole_step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = step(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        if ON_GPU:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    task.model.eval()
    with torch.no_grad():
        loss = step(batch).item()
    task.model.train()
    with FlopCounterMode(display=False) as counter:
        whole_step()  # also chooses kernels, and makes the optimizer's state
    reset_peak()
    times = [whole_step() for _ in range(options.steps)]
    held = {id(p): p.numel() * p.element_size() for network in networks for p in network.parameters()}
    peak = torch.cuda.max_memory_allocated() if ON_GPU else peak_resident() - before
    return {
        "loss": loss,
        "seconds": times,
        "operations": counter.get_total_flops(),
        "weights_gb": sum(held.values()) / 1e9,
        "memory_gb": peak / 1e9,
    }


def batch_of(task: DpoTask, images: int) -> dict:
    """Positions 0 to images - 1 of the run, as the reference stage saw them."""
    data = data_of(task.config)
    samples = PositionDataSet(open_sets(data), plan_of(task.config).plan, task.transform(), None, 0.0)
    return collate([samples[index] for index in range(images)])


def as_laid_out(batch: dict, pairs: int, images_repeated: bool) -> dict:
    """The same pairs, each with an image of its own if asked to."""
    if not images_repeated:
        return batch
    parts = {"x0", "value", "t", "noise"}
    return {
        name: value.flatten(0, 1)[:, None] if name in parts else value.repeat_interleave(pairs, 0)
        for name, value in batch.items()
        if torch.is_tensor(value)
    }


def real(task: DpoTask) -> tuple[Step, list[torch.nn.Module]]:
    """The step's loss as the trainer has it, and the networks that it holds."""
    return lambda batch: task.loss(task.model, batch)[0], [task.model, task.reference.model]


def own_passes(task: DpoTask, apart: bool) -> tuple[Step, list[torch.nn.Module]]:
    """Each model runs its own encoder, which does not train; `apart`: the winners' pass, then the losers'."""
    encoder = copy.deepcopy(task.reference.model.encoder)
    frozen = task.reference.model

    def errors(encoder: torch.nn.Module, denoiser: torch.nn.Module, batch: dict) -> Tensor:
        """(N, 2, 2) of winner and loser; joints and twists."""
        x0, noise, t = shown(batch)
        x_t = task.schedule.q_sample(x0, t, noise)
        with torch.no_grad():
            features = encoder(batch["image"])
        found = []
        for some in [slice(0, 1), slice(1, 2)] if apart else [slice(0, 2)]:
            predicted = denoiser(*network_inputs(x_t[:, some]), t[:, some], features)
            found.append(denoising_errors(predicted, noise[:, some], batch["weight"]))
        return torch.cat(found, 1)

    def step(batch: dict) -> Tensor:
        with torch.no_grad():
            theirs = errors(frozen.encoder, frozen.denoiser, batch)
        ours = errors(encoder, task.model, batch)
        groups = (GroupErrors(ours[..., part], theirs[..., part], batch["value"][:, 0]) for part in (0, 1))
        return sum(dpo(group, task.config.beta)[0] for group in groups)

    return step, [task.model, encoder, frozen]


def perturb(model: torch.nn.Module) -> None:
    """Away from the reference, by the same numbers in every process: then the losses can be compared."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator)


# ------------------------------------------------------------------------------------------------ memory of a process
def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    gc.collect()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int:
    """The most since `reset_peak`, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# ------------------------------------------------------------------------------------------------ all variants in turn
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64 if ON_GPU else 2, help="of a step")
    parser.add_argument("--pairs", type=int, default=4, help="of each image")
    parser.add_argument("--steps", type=int, default=20 if ON_GPU else 2, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each variant, in turn")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16" if ON_GPU else "fp32")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "configs/models/paper.yaml")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant is not None:
        print(json.dumps(measure(options.variant, options)))
        return
    found: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        prepare(options.folder, options.images, options.pairs, options.precision, options.model)
        for _ in range(options.rounds):
            for name in VARIANTS:  # in turn, so that a neighbour on the machine disturbs all alike
                found[name].append(in_own_process(name, options))
    report(found, options)


def in_own_process(name: str, options: argparse.Namespace) -> dict:
    given = {key: getattr(options, key) for key in ("images", "pairs", "steps", "precision", "folder")}
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    line = [sys.executable, __file__, "--variant", name, *words]
    output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def report(found: dict[str, list[dict]], options: argparse.Namespace) -> None:
    pairs = options.images * options.pairs
    device = torch.cuda.get_device_name() if ON_GPU else f"cpu, {torch.get_num_threads()} threads"
    print(f"{options.images} images x {options.pairs} pairs a step, {options.precision}, {device}")
    seconds = {name: median(t for run in runs for t in run["seconds"]) for name, runs in found.items()}
    figures: dict[str, object] = {
        "benchmark": "dpo",
        "device": device,
        "images": options.images,
        "pairs": options.pairs,
        "precision": options.precision,
        "model": options.model.stem,
    }
    for name, runs in found.items():
        times = [t for run in runs for t in run["seconds"]]
        figures[name] = {
            "ms_per_pair": round(1e3 * seconds[name] / pairs, 2),
            "range": [round(1e3 * min(times) / pairs, 2), round(1e3 * max(times) / pairs, 2)],
            "times_faster_than_plain": round(seconds["plain"] / seconds[name], 2),
            "times_faster_than_released": round(seconds["released code"] / seconds[name], 2),
            "gflop_per_pair": round(runs[0]["operations"] / pairs / 1e9, 2),
            "times_fewer_operations_than_plain": round(found["plain"][0]["operations"] / runs[0]["operations"], 2),
            "weights_gb": round(runs[0]["weights_gb"], 3),
            "memory_gb": round(min(run["memory_gb"] for run in runs), 3),
            "loss": round(runs[0]["loss"], 6),
        }
        one = figures[name]
        print(
            f"{name:20s} {one['ms_per_pair']:9.1f} ms a pair, {one['times_faster_than_plain']:5.2f} x plain, "
            f"{one['gflop_per_pair']:7.1f} GFLOP a pair ({one['times_fewer_operations_than_plain']:.2f} x fewer), "
            f"weights {one['weights_gb']:.3f} GB, all {one['memory_gb']:.2f} GB, loss {one['loss']:.6f}"
        )
    figures["goals"] = GOALS
    figures["reached"] = {name: seconds["plain"] / seconds[name] >= goal for name, goal in GOALS.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
