"""How long a stage's process takes until it begins: the imports of `adhmr run`, for which the garbage collector waits.

In turn with it, in the same run, the same imports with the collector as Python has it, and torch alone. Seconds are the
processor's, of the whole process. Then how long a full collection takes after them, passing over what the imports made
and not. The last line is JSON.

    python tools/benchmark/startup.py [--stage dpo --rounds 5]
"""

import argparse
import json
import resource
import subprocess
import sys
from statistics import median

from adhmr.config.entry_points import STAGES

COLLECTION = """
import gc, time
from adhmr.cli.stages import stage_function

def milliseconds():
    begin = time.perf_counter()
    gc.collect()
    return 1000 * (time.perf_counter() - begin)

stage_function({stage!r})
frozen = milliseconds()
gc.unfreeze()
gc.collect()
print(frozen, milliseconds())
"""


def seconds(code: str) -> float:
    """Of a process that runs this code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--stage", choices=sorted(STAGES), default="dpo")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()

    ways = {
        "torch": "import torch",
        "plain": f"import {STAGES[given.stage].split(':')[0]}",
        "adhmr run": f"from adhmr.cli.stages import stage_function; stage_function({given.stage!r})",
    }
    for code in ways.values():
        seconds(code)  # from now on the files are in memory
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, code in ways.items():
            taken[name].append(seconds(code))
    for name, values in taken.items():
        print(f"{name:10s} {median(values):5.2f} s ({min(values):.2f} to {max(values):.2f})")
    ratio = median(plain / ours for plain, ours in zip(taken["plain"], taken["adhmr run"], strict=True))
    print(f"plain imports take {ratio:.2f} times as long")
    line = [sys.executable, "-c", COLLECTION.format(stage=given.stage)]
    collections = [subprocess.run(line, check=True, capture_output=True, text=True).stdout for _ in range(given.rounds)]
    frozen, unfrozen = (median(column) for column in zip(*(map(float, text.split()) for text in collections)))
    print(f"a full collection: {frozen:.1f} ms, {unfrozen:.0f} ms over the imports' objects too")
    medians = {name: median(values) for name, values in taken.items()}
    print(json.dumps({**vars(given), "seconds": medians, "ratio": ratio, "collection_ms": [frozen, unfrozen]}))


if __name__ == "__main__":
    main()
