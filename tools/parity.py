"""Prove our code equal to the reference implementations: python tools/parity.py FOLDER [--only CASE].

FOLDER is laid out like the reference numbers (stored arrays, and listings from which the weights are rebuilt). One line
a case; the exit status is 1 when one is over its tolerance or could not be run. The cases are in parity_cases.py.
"""

import argparse
import sys
from pathlib import Path

from parity_cases import CASES, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder}: no such folder")
    held = []
    for holds, line in run(arguments.folder, arguments.only or CASES):
        held.append(holds)
        print(line, flush=True)
    print(f"{sum(held)} of {len(held)} cases equal the reference", flush=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
