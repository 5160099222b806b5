"""Files that appear whole or not at all: write under a temporary name, fsync, rename, fsync the folder.

What is written (configs, manifests, markers) is decided by the callers.
"""

import os
import socket
from pathlib import Path

_PROCESS_TOKEN = os.urandom(4).hex()  # containers of one image may share host name and process id


def write_atomically(path: str | Path, content: str | bytes, sync: bool = True) -> None:
    """Replaces `path` by `content` in one rename; a reader or a crash sees the old file or the new, never a part.

    sync: survive a power cut too; false for what is written every few seconds and is worth nothing afterwards.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # of a full disk, say
        raise
    if sync:
        sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that no other process uses, on whatever host it runs."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{_PROCESS_TOKEN}.tmp")


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
