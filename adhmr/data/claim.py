"""Whose an output folder is: a JSON file of all that its shards depend on. What belongs into it is the writer's."""

import json
from pathlib import Path
from typing import Any

from adhmr.atomic_file import write_atomically
from adhmr.errors import AdhmrError


def claim_folder(folder: Path, name: str, request: dict[str, Any]) -> None:
    """Marks the folder as this request's in its file `name`, or checks that it is: shards of two requests never mix.

    Raises AdhmrError for a folder of another request, and for one with shards that no request owns.
    """
    path = folder / name
    # Shards first: another worker of this very request writes the claim before any shard, perhaps right now.
    has_shards = folder.exists() and any(folder.glob("*.tar"))
    if not path.exists():
        if has_shards:
            raise AdhmrError(f"{folder}: holds shards of another data set; choose another folder")
        write_atomically(path, json.dumps(request, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    differing = [key for key in request if found.get(key) != request[key]]
    if differing:
        key = differing[0]
        difference = f"{key} is {found.get(key)!r}, asked for {request[key]!r}"
        raise AdhmrError(f"{path}: {difference}; choose another folder or delete this one")
