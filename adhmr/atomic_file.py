"""Files that appear whole or not at all: write under a temporary name, fsync, rename, fsync the folder.

What is written (configs, manifests, markers) is decided by the callers.
"""

import os
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes, sync: bool = True) -> None:
    """Replaces `path` by `content` in one rename; a reader or a crash sees the old file or the new, never a part.

    sync: survive a power cut too; false for what is written every few seconds and is worth nothing afterwards.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Makes renames inside `folder` survive a power cut; a no-op where folders cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
