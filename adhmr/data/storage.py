"""Where the files of a data set lie: a local folder, or a URL that fsspec opens, fetched whole into the node's cache.

What the cache keeps and evicts is node_cache.py's; which files a data set has is index.py's.
"""

import mmap
import os
import random
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from adhmr.atomic_file import write_atomically
from adhmr.data.node_cache import BadTransferError, NodeCache
from adhmr.errors import AdhmrError

ATTEMPTS = 7
FIRST_PAUSE_SECONDS = 0.5  # doubled after each attempt: half a minute in all
HTTP_CONNECT_SECONDS, HTTP_SILENCE_SECONDS = 30, 60
# Answers that no second attempt changes.
FINAL_ERRORS = (AdhmrError, FileNotFoundError, PermissionError, IsADirectoryError, ImportError)

Result = TypeVar("Result")


class FileEntry(NamedTuple):
    """A file of a data set as its manifest describes it."""

    name: str
    size: int
    sha256: str


class LocalFolder:
    """A folder on a disk or a shared file system; its files are read where they are."""

    def __init__(self, folder: str | Path) -> None:
        self.location = Path(folder)

    def __str__(self) -> str:
        return str(self.location)

    def read(self, name: str) -> bytes:
        """The content of a small file; raises FileNotFoundError."""
        return (self.location / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.location / name, content)

    def open(self, entry: FileEntry) -> int:
        """A descriptor to read a file by; raises OSError."""
        return os.open(self.location / entry.name, os.O_RDONLY | os.O_CLOEXEC)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where asking costs as much as reading it. Raises FileNotFoundError."""
        return os.stat(f"{self.location}/{name}").st_size


class RemoteFolder:
    """A URL that fsspec knows; files are fetched whole into the node's cache when they are first opened."""

    def __init__(self, url: str) -> None:
        self.location = url.rstrip("/")

    def __str__(self) -> str:
        return self.location

    def __getstate__(self) -> dict:
        return {"location": self.location}  # connections are made anew in each process

    @cached_property
    def _system(self) -> Any:
        return _file_system(self.location)

    @cached_property
    def _cache(self) -> NodeCache:
        return NodeCache.of_this_node()

    def read(self, name: str) -> bytes:
        """The content of a small file, not cached; raises FileNotFoundError, AdhmrError when it cannot be fetched."""
        return read_remote(f"{self.location}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Store a small file; object stores make it appear whole. Raises AdhmrError where that is not possible."""
        url = f"{self.location}/{name}"
        try:
            if url.startswith(("http://", "https://")):
                raise PermissionError("a web server is read only")
            with_retries(url, lambda: self._system.pipe_file(url, content))
        except (NotImplementedError, PermissionError, AdhmrError) as error:
            raise AdhmrError(
                f"{url} cannot be written ({error}): run the command where the folder can be "
                "written, and copy the file there"
            ) from error

    def open(self, entry: FileEntry) -> int:
        """A descriptor of the file in the cache; raises AdhmrError when it cannot be fetched or is another one."""
        url = f"{self.location}/{entry.name}"

        def fetch(path: Path) -> None:
            self._system.get_file(url, str(path))

        try:
            return with_retries(url, lambda: self._cache.open(entry.sha256, entry.size, fetch))
        except FileNotFoundError:
            raise AdhmrError(f"{url} is missing but listed in the manifest: upload it again") from None
        except AdhmrError as error:
            if isinstance(error.__cause__, BadTransferError):
                raise AdhmrError(
                    f"{error}; if it was replaced since its index.json was written, upload the shard of that index "
                    "again or a new index.json, index-samples.npy and index-keys.npy"
                ) from error
            raise

    def size(self, name: str) -> int | None:
        return None


def open_folder(path: str | Path) -> LocalFolder | RemoteFolder:
    """The folder at a local path or URL. Raises AdhmrError: no folder there, a URL that nothing installed opens."""
    url = str(path)
    if url.startswith("file://"):
        path, url = url.removeprefix("file://"), ""
    if "://" in url:
        return RemoteFolder(url)
    folder = LocalFolder(path)
    if not folder.location.is_dir():
        raise AdhmrError(f"{path} is not a folder: expected a folder of shards with an index.json")
    return folder


def read_file(path: str) -> bytes:
    """The content of one file at a local path or URL. Raises AdhmrError when it cannot be read."""
    try:
        return read_remote(path) if "://" in path else Path(path).read_bytes()
    except OSError as error:
        raise AdhmrError(f"{path} cannot be read ({error.strerror or 'not found'})") from None


def read_remote(url: str) -> bytes:
    """The content of the file at a URL; raises FileNotFoundError, and AdhmrError when it cannot be fetched."""
    return with_retries(url, lambda: _file_system(url).cat_file(url))


def map_array(descriptor: int) -> np.ndarray:
    """The one-dimensional .npy file of a descriptor, mapped: all processes of a node share its pages. Closes it.

    Raises ValueError when it is cut short or no such file.
    """
    # mmap duplicates the descriptor, so a cached file stays locked against eviction as long as the array lives.
    with os.fdopen(descriptor, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, dtype, shape[0], offset)


def with_retries(what: str, action: Callable[[], Result]) -> Result:
    """The result of an action on remote storage, tried again after growing pauses.

    Raises FINAL_ERRORS as they are, and AdhmrError when the last attempt fails.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except FINAL_ERRORS:
            raise
        except Exception as error:  # every backend has its own: aiohttp's and botocore's are no OSError
            if attempt + 1 == ATTEMPTS:
                problem = f"{type(error).__name__}: {error}"
                raise AdhmrError(f"{what} cannot be fetched, {ATTEMPTS} attempts failed: {problem}") from error
            # Not the module's generator: the pauses of many nodes shall differ whatever seeds a run sets.
            spread = random.SystemRandom().uniform(0.5, 1)
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt * spread)
    raise AssertionError("unreachable")


def _file_system(url: str) -> Any:
    import fsspec  # here: most runs read local folders, and each loader process would import it

    options = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp ends any transfer after five minutes unless told otherwise; a stalled one is what shall end.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=HTTP_CONNECT_SECONDS, sock_read=HTTP_SILENCE_SECONDS)
        options = {"client_kwargs": {"timeout": timeout}}
    try:
        return fsspec.core.url_to_fs(url, **options)[0]
    except (ValueError, ImportError) as error:
        raise AdhmrError(f"{url}: no storage of this kind can be opened here ({error}); install its package") from error
