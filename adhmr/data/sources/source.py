"""What a source is: the annotations of one release, opened and checked, that gives its people in order.

Turning people into records is in labels.py, cutting their crops in context_crop.py, the whole conversion in convert.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adhmr.data.sources.person import Person
from adhmr.errors import AdhmrError


@dataclass(frozen=True)
class Release:
    """Where a release lies, and what of it is asked for.

    stride: every so many-th frame, as the source counts frames. file: an annotation file in place of the usual one.
    """

    root: Path
    split: str
    stride: int = 1
    file: Path | None = None

    def path(self, *places: str) -> Path:
        """The first of several usual places below the root that is there. Raises AdhmrError naming all of them."""
        for place in places:
            if (self.root / place).exists():
                return self.root / place
        others = f" (nor {', '.join(places[1:])})" if places[1:] else ""
        raise AdhmrError(
            f"{self.root}: there is no {places[0]}{others}; docs/datasets.md says what to download and where it goes"
        )


class Source(ABC):
    """A release, opened: `Source(release)` reads the annotations and raises AdhmrError for what is missing or wrong.

    Class attributes: name of the data set; licence, one line; splits that it has; `image_root` is where images lie.
    """

    name: str
    licence: str
    splits: tuple[str, ...]
    image_root: Path

    @abstractmethod
    def __init__(self, release: Release) -> None: ...

    @abstractmethod
    def __len__(self) -> int:
        """People, those included that will be rejected."""

    @abstractmethod
    def people(self, rows: range) -> list[Person | Rejected]:
        """Some people, in order; those of one image stand together, so that it is decoded once."""

    def files(self) -> Iterable[Path]:
        """The annotation files that were read: a conversion goes on only with the same."""
        return ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A person that the source itself leaves out, and why in few words without numbers: reasons are counted."""

    key: str
    reason: str
