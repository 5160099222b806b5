"""`adhmr clean filter`: the owners' own annotation files with only the people that a shard folder holds, all else as it
was, or masks of them. Who they are is in kept_people.py; the formats, in filter_human_data.py and filter_json.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adhmr.cleaning.filter_human_data import filter_human_data
from adhmr.cleaning.filter_json import filter_json
from adhmr.cleaning.kept_people import kept_people, people_of
from adhmr.errors import AdhmrError


def filter_originals(folder: str | Path, originals: Sequence[Path], output: Path, mask: bool = False) -> list[str]:
    """Writes a filtered copy of each original below `output`, under its own name, and returns what was kept, in lines.

    mask: in place of the copies, what to keep in the original's order: NAME-kept.npy, (rows,) bool, of files that
    count by rows; NAME-kept.json, a list of numbers, of those that count by annotations.

    Raises:
        AdhmrError: an original that no person of the folder is from, that has too few rows, or of no known format, and
            an output folder in which originals lie.
    """
    people = kept_people(folder)
    lines, told = [], set()
    for path in originals:
        if path.resolve().parent == output.resolve():
            raise AdhmrError(f"--out {output}: {path} lies there and would be replaced; choose another folder")
        if path.suffix == ".npz":
            line = filter_human_data(path, people_of(folder, people, path), output, mask)
        elif path.suffix == ".json":
            line = filter_json(folder, path, people, output, mask)
        else:
            raise AdhmrError(f"--original {path}: expected a HumanData .npz or a .json of annotations or of fits")
        lines.append(line)
        told.add(path.name)
    for name in sorted(people.keys() - told):
        kept = people[name]
        count = len(kept.rows) or len(kept.annotations)
        lines.append(f"not filtered: {name}, which {count:,} people of {folder} are from; name it with --original")
    return lines
