"""Turns pydantic's validation errors into one line: file, dotted key, expected, got, nearest valid name."""

import difflib
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def problem_line(error: ValidationError, annotation: Any, sources: Mapping[tuple, str], file: str) -> str:
    """The most telling problem of `error` in one line. `sources`: key path -> file or override that set it."""
    # A misspelt required key gives two problems, "unknown" and "missing": the first says what to do.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path, owner = locate(annotation, problem["loc"])
    context = problem.get("ctx", {})
    if problem["type"].startswith("union_tag"):
        path = (*path, context["discriminator"].strip("'"))  # the key that should have named the member
    key = ".".join(map(str, path))
    source = next((sources[path[:n]] for n in range(len(path), 0, -1) if path[:n] in sources), file)
    match problem["type"]:
        case "extra_forbidden":
            text = f"unknown key '{key}'; {_suggestion(path, owner)}"
        case "missing" | "union_tag_not_found":
            text = f"key '{key}' is required and missing"
        case "union_tag_invalid":
            valid = context["expected_tags"].replace("'", "").split(", ")
            near = difflib.get_close_matches(str(context["tag"]), valid, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            text = f"key '{key}': expected one of {context['expected_tags']}, got '{context['tag']}'{hint}"
        case "value_error":
            where = f"key '{key}': " if key else ""
            text = f"{where}{context['error']}"
        case _:
            # pydantic says "Input should be a valid integer, got a number with a fractional part"
            expected = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ").partition(", ")[0]
            expected = problem["msg"].removeprefix("Input should be ") if "'" in problem["msg"] else expected
            where = f"key '{key}'" if key else "the config"
            text = f"{where}: expected {expected}, got {problem['input']!r:.60}"
    more = len({locate(annotation, other["loc"])[0] for other in problems}) - 1
    return f"{source}: {' '.join(text.split())}" + (f" (and {more} more)" if more else "")


def locate(annotation: Any, location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], type[BaseModel] | None]:
    """pydantic's error location -> (the key path as the user wrote it, the model that holds the last key).

    pydantic puts the names of union members into its locations; they are no keys and are dropped here.
    """
    path: list[str | int] = []
    owner: type[BaseModel] | None = None
    rest = list(location)
    while rest:
        annotation = _plain(annotation)
        if _is_union(annotation):
            member = _tagged(annotation, rest[0])
            if member is None and all(isinstance(option, type) for option in get_args(annotation)):
                member = next((option for option in get_args(annotation) if option.__name__ == rest[0]), None)
            annotation = member
            rest.pop(0)
            continue
        part = rest.pop(0)
        origin, arguments = get_origin(annotation), get_args(annotation)
        path.append(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner = annotation
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif origin is dict:
            owner, annotation = None, arguments[1]
        elif origin in (list, tuple) and arguments:
            index = part if origin is tuple and isinstance(part, int) and part < len(arguments) else 0
            owner, annotation = None, arguments[index]
        else:
            owner, annotation = None, None
    return tuple(path), owner


def _plain(annotation: Any) -> Any:
    """Without Annotated and without `| None`, neither of which shows in a location."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif _is_union(annotation) and type(None) in get_args(annotation):
            members = [member for member in get_args(annotation) if member is not type(None)]
            annotation = members[0] if len(members) == 1 else Union[tuple(members)]  # noqa: UP007 built at run time
        else:
            return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _tagged(union: Any, tag: str | int) -> type[BaseModel] | None:
    """The member of a discriminated union that has a Literal field with this tag."""
    for member in get_args(union):
        member = _plain(member)
        for field in getattr(member, "model_fields", {}).values():
            if get_origin(field.annotation) is Literal and tag in get_args(field.annotation):
                return member
    return None


def _suggestion(path: tuple[str | int, ...], owner: type[BaseModel] | None) -> str:
    names = list(owner.model_fields) if owner else []
    near = difflib.get_close_matches(str(path[-1]), names, 1)
    if near:
        return f"did you mean '{'.'.join(map(str, (*path[:-1], near[0])))}'?"
    deeper = [
        f"{name}.{path[-1]}"
        for name in names
        if path[-1] in getattr(_plain(owner.model_fields[name].annotation), "model_fields", {})
    ]
    if deeper:
        return f"did you mean '{'.'.join(map(str, (*path[:-1], deeper[0])))}'?"
    return f"valid names here: {', '.join(names)}"
