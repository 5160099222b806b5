"""How fast the paper-size denoiser samples: hypotheses/s in fp32 and bf16, N images x M hypotheses.

Baselines, measured in turn with it in the same run: the plain variant, which repeats an image's memory for each of its
hypotheses, and the machine's own rate of matrix products. Weights are random, which costs the same. The last line is
JSON.

    python tools/benchmark/denoiser.py [--images 4 --hypotheses 25 --rounds 5 --compile]
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from adhmr.config.model import BaseModelConfig
from adhmr.diffusion.sampler import ddim_sample
from adhmr.models.denoiser import Denoiser
from adhmr.models.encoder import ImageFeatures

GOALS = {"cpu": 0.50, "cuda": 0.45}  # share of the machine's bf16 matrix-product rate
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns of the products that measure the machine
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def random_features(config: BaseModelConfig, images: int, device: str) -> ImageFeatures:
    """What the denoiser reads of an encoder, made up."""
    rows, columns = config.encoder.memory_grid(config.crop_size, config.crop_size)
    memory = torch.randn(images, rows * columns, config.encoder.memory_dim, device=device)
    local = torch.randn(images, 52, config.encoder.local_dim, device=device)
    joints2d = torch.zeros(images, 29, 2, device=device)
    return ImageFeatures(memory, None, local, joints2d, None, None, torch.zeros(images, 10, device=device))


def repeated(features: ImageFeatures, count: int) -> ImageFeatures:
    """The features of each image `count` times: every hypothesis with its own copy of the memory."""
    return ImageFeatures(*(None if part is None else part.repeat_interleave(count, 0) for part in features))


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4 if device == "cpu" else 64)
    parser.add_argument("--hypotheses", type=int, default=25 if device == "cpu" else 100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile the denoiser with torch.compile first")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = BaseModelConfig()
    denoiser = Denoiser(config.denoiser, config.encoder.memory_grid(config.crop_size, config.crop_size))
    denoiser = denoiser.to(device).eval().requires_grad_(False)
    count = options.images * options.hypotheses
    features = random_features(config, options.images, device)
    noise = torch.randn(options.images, options.hypotheses, 133, device=device)
    network = torch.compile(denoiser) if options.compile else denoiser

    def sample(precision: str) -> None:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            ddim_sample(network, features, options.hypotheses, noise)

    def sample_repeated(precision: str) -> None:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            ddim_sample(network, repeated(features, options.hypotheses), 1, noise.flatten(0, 1)[:, None])

    size = MATRIX[device]
    matrices = {name: torch.randn(2, size, size, device=device).to(dtype) for name, dtype in PRECISIONS.items()}
    work: dict[str, Callable[[], object]] = {}
    for name in PRECISIONS:
        work[f"{name} product"] = lambda name=name: torch.mm(*matrices[name])
        work[f"{name} shared"] = lambda name=name: sample(name)
        work[f"{name} repeated"] = lambda name=name: sample_repeated(name)
    with FlopCounterMode(display=False) as counter:
        sample("fp32")
    operations = counter.get_total_flops()
    for run in work.values():  # first calls choose kernels, and compile
        run()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, run in work.items():  # in turn, so that a neighbour on the machine disturbs all alike
            times[name].append(seconds(run, device))
    figures: dict[str, object] = {
        "benchmark": "denoiser",
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "images": options.images,
        "hypotheses": options.hypotheses,
        "compiled": options.compile,
        "gflop_per_hypothesis": round(operations / count / 1e9, 3),
    }
    print(f"{options.images} images x {options.hypotheses} hypotheses, 4 network calls, {figures['device']}")
    for name in PRECISIONS:
        shared, plain = times[f"{name} shared"], times[f"{name} repeated"]
        machine = 2 * size**3 / median(times[f"{name} product"])  # operations a second
        share = operations / median(shared) / machine
        ratio = median(slow / fast for slow, fast in zip(plain, shared))
        figures[name] = {
            "hypotheses_per_s": round(count / median(shared), 1),
            "range": [round(count / max(shared), 1), round(count / min(shared), 1)],
            "times_faster_than_repeated_memory": round(ratio, 3),
            "machine_gflops": round(machine / 1e9, 1),
            "share_of_machine": round(share, 3),
        }
        print(
            f"{name}: {count / median(shared):8.1f} hypotheses/s, {ratio:.2f} x repeated memory, "
            f"{operations / median(shared) / 1e9:7.1f} of {machine / 1e9:.1f} GFLOP/s = {100 * share:.0f} %"
        )
    figures["goal"] = {"bf16 share_of_machine": GOALS[device]}
    figures["reached"] = figures["bf16"]["share_of_machine"] >= GOALS[device]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
