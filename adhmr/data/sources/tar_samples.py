"""Tar files of samples, as WebDataset defines them: members that stand together and whose names are equal up to the
first dot are one sample. People of such sets are made in webdataset.py and four_d_humans.py."""

from __future__ import annotations

import tarfile
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from adhmr.data.sources.image_file import read_span
from adhmr.data.sources.person import Person
from adhmr.data.sources.source import Rejected, Release, Source
from adhmr.errors import AdhmrError
from adhmr.progress import track

IMAGES = ("jpg", "jpeg", "png")
MOST_PEOPLE = 1_000_000  # in one tar: the numbers of another tar's begin there

Span = tuple[int, int]  # first byte and number of bytes


@dataclass(frozen=True, slots=True)
class TarSample:
    """One sample: where its members lie in its tar, by extension (all after the first dot, in small letters)."""

    tar: Path
    key: str
    spans: dict[str, Span]

    def read(self, extension: str) -> bytes | None:
        """A member's bytes, or None when there is none."""
        return None if extension not in self.spans else read_span(self.tar, self.spans[extension])

    @property
    def image(self) -> Span | None:
        return next((self.spans[extension] for extension in IMAGES if extension in self.spans), None)


def tar_samples(path: Path) -> Iterator[TarSample]:
    """The samples of a tar in order; headers are read, contents are not. Raises AdhmrError for no whole, plain tar."""
    key, spans = None, {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                own = f"{folder}/{stem}" if folder else stem
                if own != key:
                    if spans:
                        yield TarSample(path, key, spans)
                    key, spans = own, {}
                spans[extension.lower()] = (member.offset_data, member.size)
            if path.stat().st_size < tar.offset:
                raise tarfile.ReadError("it ends within a member")
    except (tarfile.TarError, OSError) as error:
        raise AdhmrError(f"{path}: not a whole tar file ({error}); unpack a compressed one, or get it again") from error
    if spans:
        yield TarSample(path, key, spans)


class TarSource(Source):
    """All tars below the root (or the one that --file names), in order of name. A stride takes every so many-th sample
    of each tar. Members are read twice: to count people on opening, and when they are asked for."""

    def __init__(self, release: Release) -> None:
        self.image_root, self._stride = release.root, release.stride
        self._tars = [release.file] if release.file else sorted(release.root.rglob("*.tar"))
        if not self._tars:
            packed = next(release.root.rglob("*.tar.*"), None)
            more = "" if packed is None else f"; {packed} is compressed: unpack it to .tar"
            raise AdhmrError(f"{release.root}: there is no .tar file in it or below{more}")
        tars = track(range(len(self._tars)), f"read {self.name}", "tars")
        self._stops = list(accumulate(len(self._listed(number)) for number in tars))
        self._held: tuple[int, list[Person | Rejected]] = (-1, [])

    @abstractmethod
    def people_of(self, sample: TarSample, image: str, first: int) -> list[Person | Rejected]:
        """Who is in a sample. image: its tar below the root. Keys are made of the sample's key and of numbers from
        `first` on."""

    def files(self) -> list[Path]:
        return self._tars

    def __len__(self) -> int:
        return self._stops[-1]

    def people(self, rows: range) -> list[Person | Rejected]:
        found: list[Person | Rejected] = []
        at = rows.start
        while at < min(rows.stop, len(self)):
            number = bisect_right(self._stops, at)
            first = self._stops[number - 1] if number else 0
            if self._held[0] != number:
                self._held = (number, self._listed(number))
            found += self._held[1][at - first : rows.stop - first]
            at = self._stops[number]
        return found

    def _listed(self, number: int) -> list[Person | Rejected]:
        """Everybody in one tar."""
        tar, people = self._tars[number], []
        image = tar.relative_to(self.image_root).as_posix() if tar.is_relative_to(self.image_root) else str(tar)
        for at, sample in enumerate(tar_samples(tar)):
            if at % self._stride == 0:
                people += self.people_of(sample, image, number * MOST_PEOPLE + len(people))
        return people
