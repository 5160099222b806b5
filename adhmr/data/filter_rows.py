"""Which rows of a data set a filter leaves: the name of the filter's table, and finding a table that was built.

The predicates, and building a table, are in filters.py.
"""

import hashlib
import json
import shlex
from dataclasses import dataclass

from adhmr.config.data import FilterConfig
from adhmr.data.storage import FileEntry, LocalFolder, RemoteFolder, read_file
from adhmr.errors import AdhmrError

FILTER_FILES = ("scores", "exclude")  # the keys of a filter that name files


@dataclass(frozen=True, slots=True)
class FilterTable:
    """A built table: its file of rows, how many, and the fingerprint of the data set that it leaves."""

    file: FileEntry
    num_samples: int
    fingerprint: str


def describe_filter(data_fingerprint: str, filter: FilterConfig) -> dict:
    """All that the rows of a filter depend on: the data set, the predicates, and the hashes of the files they read.

    Raises AdhmrError for a file that cannot be read.
    """
    predicates = filter.model_dump(exclude_none=True)
    for name in FILTER_FILES:
        if name in predicates:  # where the file lies does not matter
            predicates[name] = hashlib.sha256(read_file(predicates[name])).hexdigest()
    return {"data": data_fingerprint, "filter": predicates}


def filter_names(description: dict) -> tuple[str, str]:
    """The files of a described filter: its manifest index-HASH.json and its rows index-HASH.npy."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"index-{digest}.json", f"index-{digest}.npy"


def find_filter(storage: LocalFolder | RemoteFolder, data_fingerprint: str, filter: FilterConfig) -> FilterTable:
    """The table of a filter beside the shards; raises AdhmrError naming the command when it is not built."""
    manifest, rows = filter_names(describe_filter(data_fingerprint, filter))
    try:
        content = storage.read(manifest)
    except FileNotFoundError:
        raise AdhmrError(
            f"{storage} has no {manifest}: this filter was not built for the data set and files as they are now; run "
            f"`{filter_command(storage, filter)}`"
        ) from None
    try:
        document = json.loads(content)
        entry = FileEntry(rows, document["rows"]["size"], document["rows"]["sha256"])
        return FilterTable(entry, document["num_samples"], hashlib.sha256(content).hexdigest())
    except (ValueError, KeyError, TypeError) as error:
        raise AdhmrError(
            f"{storage}/{manifest} is damaged ({error!r}); run `{filter_command(storage, filter)}`"
        ) from error


def filter_command(storage: object, filter: FilterConfig) -> str:
    """The command that builds the table of a filter."""
    options = " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in filter.model_dump(exclude_none=True).items()
    )
    return f"adhmr data filter {shlex.quote(str(storage))} {options}"
