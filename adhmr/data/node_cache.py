"""The cache of remote files on this node: named by their SHA-256, shared by all processes, bounded.

Where the bytes come from is storage.py's. Locks are the kernel's (flock), so a killed process leaves none behind.
"""

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adhmr.errors import AdhmrError

log = logging.getLogger(__name__)

FOLDER_VARIABLE, LIMIT_VARIABLE = "ADHMR_CACHE", "ADHMR_CACHE_GB"
DEFAULT_GB = 50.0
_PART = ".part"


class BadTransferError(OSError):
    """A file arrived with other bytes than the manifest says."""


class NodeCache:
    """A folder of whole files of at most `limit` bytes together, the least recently opened evicted first.

    A file that a process has open is never evicted; when what is open is more than the limit, the limit is passed
    with a warning.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._warned = False

    @classmethod
    def of_this_node(cls) -> "NodeCache":
        """The cache that ADHMR_CACHE (default: adhmr-cache-UID in the folder for temporary files) and ADHMR_CACHE_GB
        say. Raises AdhmrError when the limit is no positive number."""
        default = Path(tempfile.gettempdir()) / f"adhmr-cache-{os.getuid()}"
        text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
        try:
            limit = int(float(text) * 1e9)
        except (ValueError, OverflowError):
            limit = 0
        if limit <= 0:
            raise AdhmrError(f"{LIMIT_VARIABLE} is {text!r}; expected a positive number of gigabytes")
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or default), limit)

    def open(self, sha256: str, size: int, fetch: Callable[[Path], None]) -> int:
        """A descriptor of the file with this hash, which `fetch` writes to a path when it is not there yet.

        Of several processes that ask for the same file one fetches it. Raises what `fetch` raises, BadTransferError
        when it wrote something else, and AdhmrError when the file is larger than the whole cache.
        """
        path = self.folder / sha256
        while True:
            descriptor = _open_shared(path)
            if descriptor is not None:
                os.utime(descriptor)  # "recently used"; access times are switched off on many nodes
                return descriptor
            with self._lock(sha256[:2]):
                if not path.exists():
                    self._fetch(path, size, fetch)

    def _fetch(self, path: Path, size: int, fetch: Callable[[Path], None]) -> None:
        if size > self.limit:
            raise AdhmrError(
                f"a file of {size / 1e9:.2f} GB does not fit into the cache {self.folder} of {self.limit / 1e9:.2f} GB"
                f": raise {LIMIT_VARIABLE}"
            )
        # The size that it will have is in the name: evicting counts files that are still growing as whole.
        part = self.folder / f".{path.name}.{size}.{os.getpid()}{_PART}"
        with self._lock("space"):
            self._make_room(size)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that its writer lives
        try:
            fetch(part)
            actual = part.stat().st_size
            if actual != size:
                raise BadTransferError(f"{actual} of {size} bytes arrived")
            with open(part, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != path.name:
                raise BadTransferError(f"its SHA-256 is {found[:12]}, the manifest says {path.name[:12]}")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
            os.close(descriptor)

    def _make_room(self, size: int) -> None:
        """Evict until `size` more bytes fit; the caller holds the lock "space"."""
        total, candidates = size, []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_PART):
                if not _unlink_unused(entry.path):  # its writer was killed
                    total += int(entry.name.split(".")[2])
            elif entry.is_file():
                status = entry.stat()
                total += status.st_size
                candidates.append((status.st_mtime_ns, entry.path, status.st_size))
        for _, path, freed in sorted(candidates):
            if total <= self.limit:
                return
            if _unlink_unused(path):
                total -= freed
        if total > self.limit and not self._warned:
            self._warned = True
            log.warning(
                f"cache {self.folder}: the files in use have {total / 1e9:.1f} GB, more than its limit of "
                f"{self.limit / 1e9:.1f} GB; raise {LIMIT_VARIABLE}, or lower the data's `window`"
            )

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _open_shared(path: Path) -> int | None:
    """A descriptor that keeps the file from being evicted while it (or a mapping made of it) is open."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)  # evicted between opening and locking
    return None


def _unlink_unused(path: str) -> bool:
    """Remove the file unless a process holds a lock on it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
