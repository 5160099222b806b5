"""Large JSON files read one element at a time: annotations of hundreds of thousands of people fit in memory as arrays,
but not as Python objects. What the elements mean is said by the callers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from adhmr.errors import AdhmrError

CHUNK = 1 << 22  # characters read at once; as many again as an element that has not ended has
LONGEST = 1 << 28  # characters of one element: what has not ended by then is broken


def json_elements(path: Path, lists: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(name of the list, element) of the named lists of an object, in the order of the file, other keys passed over;
    without names, ("", element) of a file that is one list.

    Raises AdhmrError for no readable JSON and for a list that is not there.
    """
    with _opened(path) as text:
        if not lists:
            yield from text.elements("")
            return
        missing = set(lists)
        for name in text.names(f"an object with the lists {', '.join(lists)}"):
            if name in missing:
                missing.remove(name)
                yield from text.elements(name)
            else:
                text.value()
    if missing:
        raise AdhmrError(f"{path}: there is no list '{sorted(missing)[0]}'; expected the lists {', '.join(lists)}")


def json_members(path: Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of a file that is one object, one at a time. Raises AdhmrError for no readable JSON."""
    with _opened(path) as text:
        for name in text.names("an object"):
            yield name, text.value()


@contextmanager
def _opened(path: Path) -> Iterator[_Text]:
    try:
        with path.open(encoding="utf-8") as file:
            yield _Text(path, file)
    except FileNotFoundError:
        raise AdhmrError(f"{path}: no such file; docs/datasets.md says where to get it") from None
    except UnicodeDecodeError as error:
        raise AdhmrError(f"{path}: not readable JSON ({error}); get the file again") from error


class _Text:
    """The part of a file that was read and not yet used."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._buffer, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def names(self, what: str) -> Iterator[str]:
        """Names of the object that begins here; whoever takes one reads its value before the next."""
        self.expect("{", what)
        while self.peek() == '"':
            name = self.value()
            self.expect(":", "a colon")
            yield name
            if self.peek() == ",":
                self.expect(",", "a comma")
        self.expect("}", "the end of the object")

    def elements(self, name: str) -> Iterator[tuple[str, Any]]:
        self.expect("[", f"the list {name}" if name else "a list")
        while self.peek() not in ("]", ""):
            yield name, self.value()
            if self.peek() == ",":
                self.expect(",", "a comma")
        self.expect("]", "the end of the list")

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def expect(self, character: str, what: str) -> None:
        found = self.peek()
        if found != character:
            raise AdhmrError(
                f"{self._path}: not the expected JSON: {found!r} stands where {what} should be; get the file again"
            )
        self._at += 1

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
                if end < len(self._buffer):
                    self._at = end
                    return value
                if not self._more():  # a number may go on in what is not read yet
                    self._at = len(self._buffer)
                    return value
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at > LONGEST or not self._more():
                    raise AdhmrError(f"{self._path}: not readable JSON ({error.msg}); get the file again") from error

    def _more(self) -> bool:
        """Reads on; whether there was something."""
        chunk = self._file.read(max(CHUNK, len(self._buffer) - self._at))
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return bool(chunk)
