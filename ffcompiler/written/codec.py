"""Strict JSON for frozen dataclasses: one value, one sequence of bytes.

The type hints of a dataclass are its schema. A dataclass is an object with exactly its fields, a tuple is a list, an
enum is its value, and where several dataclasses are possible one is an object with its class name as the only key:
``{"Ref":{"name":"b3","output":null}}``. Floats that JSON lacks are ``{"float":"inf"}``. Class names in a file are
looked up among the classes that the schema allows at that place; nothing in a file names anything that is imported.

A field that came `LATER` than files in which it is missing has a default, and is left out where it has that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ForwardRef, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .. import graph
from ..errors import ArtifactError, InvalidPlanError

MAX_BYTES = 16 * 2**20  # of one document
MAX_VALUES = 1_000_000  # lists, objects and their separators
MAX_DEPTH = 64  # of lists and objects in each other
MAX_STRING = 2**20  # characters of one string
MIN_INT, MAX_INT = -(2**63), 2**63 - 1

LATER = MappingProxyType({"later": True})
"""Metadata of a field that files of this major version need not have: one that was added to its class since."""

_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

T = TypeVar("T")


def encode(value: object) -> bytes:
    """The canonical JSON of a dataclass: fields in their order, no spaces, ASCII.

    Raises:
        InvalidPlanError: where a field holds what a file cannot.
    """
    return _text(_write(value, type(value), type(value).__name__.lower())).encode("ascii")


def decode(data: bytes, cls: type[T]) -> T:
    """The value of dataclass ``cls`` that encodes as exactly ``data``.

    Raises:
        ArtifactError: with the place (``plan.loop.tables[0][3]``) and the fault.
    """
    root = cls.__name__.lower()
    document = _load(data, root)
    value = _read(document, cls, root, 0)
    if encode(value) != data:
        _refuse(root, "is not written the way ffcompiler writes it (spacing, order or escapes)")
    return cast(T, value)


def _text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _refuse(path: str, fault: str) -> NoReturn:
    raise ArtifactError(f"{path} {fault}; the file is damaged or was not written by ffcompiler: compile again")


# ---------------------------------------------------------------------------------------------------- hints


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


@cache
def _later(cls: type) -> dict[str, Any]:
    """The defaults of the fields that may be missing."""
    return {field.name: field.default for field in fields(cls) if field.metadata.get("later")}


def _is_left_out(value: Any, key: str) -> bool:
    cls: type = type(value)
    later, held = _later(cls), getattr(value, key)
    return key in later and held == later[key] and repr(held) == repr(later[key])


@cache
def _choices(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of any other hint, itself."""
    if isinstance(hint, ForwardRef) and hint.__forward_arg__ == graph.Arg:  # the alias that contains itself
        (hint, _) = get_args(_hints(graph.Node)["args"])
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _classes(choices: Iterable[Any]) -> dict[str, Any]:
    return {choice.__name__: choice for choice in choices if isinstance(choice, type) and is_dataclass(choice)}


# ---------------------------------------------------------------------------------------------------- JSON


def _load(data: bytes, root: str) -> Any:
    if len(data) > MAX_BYTES:
        _refuse(root, f"has {len(data)} bytes; this build reads at most {MAX_BYTES}")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        _refuse(root, f"has more than {MAX_VALUES} values")
    try:
        hooks = {"parse_constant": _no_constant, "parse_int": _short_int}
        return json.loads(data.decode("ascii"), object_pairs_hook=_unique, **hooks)  # type: ignore[arg-type]
    except RecursionError:
        _refuse(root, f"is nested more than {MAX_DEPTH} deep")
    except ValueError as fault:  # not JSON, not ASCII, or one of the hooks below
        _refuse(root, f"is not the JSON that ffcompiler writes ({str(fault)!a})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"an integer of {len(digits)} characters")
    return int(digits)


# ---------------------------------------------------------------------------------------------------- reading


def _read(document: Any, hint: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        _refuse(path, f"is nested more than {MAX_DEPTH} deep")
    choices = _choices(hint)
    if isinstance(document, dict):
        return _read_object(document, choices, path, depth)
    if isinstance(document, list):
        return _read_list(document, choices, path, depth)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, Enum) and isinstance(document, str):
            return _read_enum(document, choice, path)
    if type(document) in choices:
        return _checked(document, path)
    _refuse(path, f"is {_kind(document)}, expected {_expected(choices)}")


def _read_object(document: dict[str, Any], choices: tuple[Any, ...], path: str, depth: int) -> Any:
    classes = _classes(choices)
    if float in choices and document.keys() == {"float"} and document["float"] in list(_SPECIAL):
        return _SPECIAL[document["float"]]
    if len(classes) == 1:
        (cls,) = classes.values()
        return _read_fields(document, cls, path, depth)
    if len(document) != 1 or next(iter(document)) not in classes:
        _refuse(path, f"is {_kind(document)}, expected {_expected(choices)}")
    ((name, content),) = document.items()
    if not isinstance(content, dict):
        _refuse(f"{path}.{name}", f"is {_kind(content)}, expected an object")
    return _read_fields(content, classes[name], path, depth + 1)


def _read_fields(document: dict[str, Any], cls: Any, path: str, depth: int) -> Any:
    hints = _hints(cls)
    for key in document:
        if key not in hints:
            _refuse(path, f"has the unknown key {key[:100]!a}")
    for key in hints:
        if key not in document and key not in _later(cls):
            _refuse(path, f"lacks the key {key!a}")
    given = {key: hint for key, hint in hints.items() if key in document}
    return cls(**{key: _read(document[key], hint, f"{path}.{key}", depth + 1) for key, hint in given.items()})


def _read_list(document: list[Any], choices: tuple[Any, ...], path: str, depth: int) -> tuple[Any, ...]:
    hint = next((choice for choice in choices if get_origin(choice) is tuple), None)
    if hint is None:
        _refuse(path, f"is a list, expected {_expected(choices)}")
    items = _items(hint, len(document))
    if len(items) != len(document):
        _refuse(path, f"has {len(document)} entries, expected {len(items)}")
    entries = zip(document, items, strict=True)
    return tuple([_read(entry, item, f"{path}[{i}]", depth + 1) for i, (entry, item) in enumerate(entries)])


def _items(hint: Any, length: int) -> tuple[Any, ...]:
    """The hint of each entry of a tuple: of ``tuple[X, ...]`` or of ``tuple[X, Y]``."""
    hints = get_args(hint)
    return hints[:1] * length if hints[-1] is ... else hints


def _read_enum(document: str, choice: type[Enum], path: str) -> Enum:
    for member in choice:
        if member.value == document:
            return member
    _refuse(path, f"is {document[:100]!a}, expected one of {', '.join(str(m.value) for m in choice)}")


def _checked(value: Any, path: str) -> Any:
    if fault := _unreadable(value):
        _refuse(path, fault)
    return value


def _unreadable(value: Any) -> str | None:
    """Why a number or string cannot stand in a file, if it cannot."""
    match value:
        case int() if not MIN_INT <= value <= MAX_INT:
            return "is an integer of more than 64 bits"
        case float() if not math.isfinite(value):
            return "is a number too large for a float"
        case str() if len(value) > MAX_STRING:
            return f"is a string of {len(value)} characters; this build reads at most {MAX_STRING}"
        case str() if any("\ud800" <= c <= "\udfff" for c in value):
            return "is a string with half of a surrogate pair"
    return None


def _kind(document: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "an integer", float: "a float"}
    return kinds.get(type(document), "null")


def _expected(choices: tuple[Any, ...]) -> str:
    return " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)


# ---------------------------------------------------------------------------------------------------- writing


def _write(value: Any, hint: Any, path: str) -> Any:
    """The JSON document of ``value``; a value that could not be read back is an error here and not in the reader."""
    choices = _choices(hint)
    cls: type = type(value)
    if is_dataclass(cls) and cls in choices:
        hints = {key: hint for key, hint in _hints(cls).items() if not _is_left_out(value, key)}
        content = {key: _write(getattr(value, key), item, f"{path}.{key}") for key, item in hints.items()}
        return content if len(_classes(choices)) == 1 else {cls.__name__: content}
    if isinstance(value, Enum) and type(value) in choices:
        return value.value
    if isinstance(value, tuple):
        return _write_tuple(value, choices, path)
    if type(value) is int and float in choices and int not in choices:
        value = float(value)
    if type(value) is float and not math.isfinite(value) and float in choices:
        return {"float": repr(value)}
    if type(value) in choices and isinstance(value, bool | int | float | str | NoneType):
        if fault := _unreadable(value):
            raise _unsaveable(path, fault)
        return value
    raise _unsaveable(path, f"is {ascii(value)[:100]}, expected {_expected(choices)}")


def _write_tuple(value: tuple[Any, ...], choices: tuple[Any, ...], path: str) -> list[Any]:
    for hint in choices:
        if get_origin(hint) is tuple and len(items := _items(hint, len(value))) == len(value):
            entries = zip(value, items, strict=True)
            return [_write(entry, item, f"{path}[{i}]") for i, (entry, item) in enumerate(entries)]
    raise _unsaveable(path, f"is {ascii(value)[:100]}, expected {_expected(choices)}")


def _unsaveable(path: str, fault: str) -> InvalidPlanError:
    return InvalidPlanError(f"{path} {fault}; such a value cannot be saved")
