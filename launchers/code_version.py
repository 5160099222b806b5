"""Which code a stage runs: a hash of each file of the package that its module can reach by imports and names.

Comments, docstrings and blank lines do not count. What follows from a changed version: stage_record.py.
"""

from __future__ import annotations

import ast
import hashlib
import re
from functools import cache
from pathlib import Path

import adhmr

ROOT = Path(adhmr.__file__).resolve().parents[1]
ASSETS = "adhmr/assets"  # the body, the poses: a module that names a file there depends on it
SETTINGS = "adhmr.config"  # classes of settings: a fingerprint has the settings themselves, with their defaults
NAMED = re.compile(r"^(adhmr(?:\.\w+)+)(?::\w+)?$")  # a module that is named in a string and imported later


@cache
def code_files(module: str) -> dict[str, str]:
    """File, relative to the package's parent -> hash of its code, for `module` and the adhmr modules it can import."""
    files: dict[str, str] = {}
    waiting, seen = [module], {module}
    while waiting:
        found = _file(waiting.pop())
        if found is None:
            continue
        digest, imports, assets = _read(found)
        files[str(found.relative_to(ROOT))] = digest
        files |= {f"{ASSETS}/{name}": _asset(ROOT / ASSETS / name) for name in assets & _asset_names()}
        for name in imports:
            parts = name.split(".")
            for known in {".".join(parts[:length]) for length in range(1, len(parts) + 1)} - seen:
                seen.add(known)
                if known != SETTINGS and not known.startswith(SETTINGS + "."):
                    waiting.append(known)
    return dict(sorted(files.items()))


def _file(module: str) -> Path | None:
    """None for a name that is no module: a class, a function."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _asset_names() -> frozenset[str]:
    return frozenset(path.name for path in (ROOT / ASSETS).iterdir())


@cache
def _asset(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@cache
def _read(file: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """The hash of a file's code, the modules that it imports or spells out in a string, and all its strings."""
    source = file.read_bytes()
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    strings: list[ast.expr] = []
    docstrings: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            names.update([origin, *(f"{origin}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
        ):
            strings.append(node)
            if isinstance(node, ast.Constant) and (match := NAMED.match(str(node.value))):
                names.add(match[1])
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.append(first.value)
    code = hashlib.sha256(_code(source, strings, docstrings)).hexdigest()[:12]
    spelt = frozenset(str(node.value) for node in strings if isinstance(node, ast.Constant))
    return code, frozenset(name for name in names if name.split(".")[0] == "adhmr"), spelt


def _code(source: bytes, strings: list[ast.expr], docstrings: list[ast.expr]) -> bytes:
    """A source file without comments, docstrings, blank lines and trailing blanks."""
    lines = source.splitlines()
    for row, line in enumerate(lines, 1):
        at = line.find(b"#")
        while at >= 0:
            if not any((n.lineno, n.col_offset) <= (row, at) < (n.end_lineno, n.end_col_offset) for n in strings):
                lines[row - 1] = line[:at]
                break
            at = line.find(b"#", at + 1)
    for node in docstrings:
        lines[node.lineno - 1 : node.end_lineno] = [b""] * (node.end_lineno - node.lineno + 1)
    return b"\n".join(line.rstrip() for line in lines if line.strip())
