"""YAML with `extends:` and dotted overrides -> a typed config, and errors that name file, key and nearest valid name.

The fields themselves live in the other modules of this package.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from adhmr.atomic_file import write_atomically
from adhmr.config.messages import problem_line
from adhmr.errors import AdhmrError

Config = TypeVar("Config", bound=BaseModel)
Sources = dict[tuple[str | int, ...], str]  # key path -> the file or override that set it


class _YamlLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice and reads 1e-4 as a number (YAML 1.1 reads it as a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_config(path: str | Path, overrides: Iterable[str], model: type[Config] | TypeAdapter[Config] | Any) -> Config:
    """Reads `path`, merges what it extends, applies `a.b=c` overrides and checks the result against `model`.

    `model` is a StrictModel, or a discriminated union of them (an Annotated type or its TypeAdapter).
    `extends: other.yaml` or a list, at any level of the file, is relative to the file it stands in; later entries win
    over earlier ones and the file wins over all. Mappings are merged key by key, lists are replaced.

    Raises AdhmrError: missing file, broken YAML, a circle of `extends`, an unknown key, a value of a wrong type.
    """
    sources: Sources = {}
    values = _read(Path(path), (), sources, ())
    for override in overrides:
        _apply_override(values, override, sources)
    return check_values(values, model, str(path), sources)


def check_values(
    values: dict[str, Any], model: type[Config] | TypeAdapter[Config] | Any, origin: str, sources: Sources | None = None
) -> Config:
    """The config of values that `origin` (a file, a command) gave; raises AdhmrError for what does not fit `model`."""
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        raise AdhmrError(problem_line(error, adapter._type, sources or {}, origin)) from None


def save_resolved(config: BaseModel, path: str | Path) -> None:
    """Writes every field of `config`, defaults included, as YAML that load_config reads back; appears by rename."""
    write_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120))


def _read(file: Path, chain: tuple[Path, ...], sources: Sources, prefix: tuple) -> dict[str, Any]:
    """The mapping in `file` with its `extends` merged in. `chain`: the files that led here, to find circles."""
    resolved = file.resolve()
    if resolved in chain:
        circle = " -> ".join(str(name) for name in (*chain[chain.index(resolved) :], resolved))
        raise AdhmrError(f"{file}: `extends` goes round in a circle: {circle}; remove one of them")
    try:
        values = yaml.load(resolved.read_text(), _YamlLoader)
    except OSError as error:
        by = f" (extended by {chain[-1]})" if chain else ""
        raise AdhmrError(f"{file}: cannot read this config file{by}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise AdhmrError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise AdhmrError(f"{file}: expected a mapping of keys to values, got a {type(values).__name__}")
    return _expand(values, file, (*chain, resolved), sources, prefix)


def _expand(values: dict[str, Any], file: Path, chain: tuple[Path, ...], sources: Sources, prefix: tuple) -> dict:
    """Resolves `extends` in this mapping and in every mapping below it."""
    parents = values.get("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise AdhmrError(f"{file}: key '{_dotted((*prefix, 'extends'))}': expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for parent in parents:
        merged = _merge(merged, _read(file.parent / parent, chain, sources, prefix))
    own = {}
    for key, value in values.items():
        if key == "extends":
            continue
        sources[(*prefix, key)] = str(file)
        own[key] = _expand(value, file, chain, sources, (*prefix, key)) if isinstance(value, dict) else value
    return _merge(merged, own)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(values: dict[str, Any], override: str, sources: Sources) -> None:
    """Sets one `a.b.0.c=value` inside `values`; the value is read as YAML."""
    name, equals, text = override.partition("=")
    path = tuple(int(part) if part.isdigit() else part for part in name.strip().split("."))
    if not equals or "" in path:
        raise AdhmrError(f"override '{override}': expected key=value with a dotted key, for example train.steps=100")
    try:
        value = yaml.load(text, _YamlLoader)
    except yaml.YAMLError:
        raise AdhmrError(f"override '{override}': the value is not valid YAML; quote it") from None
    node: Any = values
    for depth, part in enumerate(path):
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise AdhmrError(
                    f"override '{override}': '{_dotted(path[:depth])}' is a list of {len(node)}: "
                    f"expected an index below {len(node)}, got '{part}'"
                )
        elif isinstance(node, dict):
            part = str(part)
        else:
            raise AdhmrError(f"override '{override}': '{_dotted(path[:depth])}' is a plain value without keys")
        if depth == len(path) - 1:
            node[part] = value
        else:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}  # not in the files, or null there: its fields have defaults or are set by overrides
            node = node[part]
    sources[path] = f"override '{override}'"


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(str(part) for part in path)
