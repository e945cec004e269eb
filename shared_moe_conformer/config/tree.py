"""Options as frozen dataclasses: refusal of bad values, conversion of a tree of them to JSON and back, and copies."""

from __future__ import annotations

import dataclasses
import functools
import json
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

C = TypeVar("C")
ADDED_LATER = {"may_be_missing": True}
"""Metadata of a field that older files lack; its default is the behaviour from before the field existed."""


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_least(config: Any, least: int, *names: str) -> None:
    """Refuse options of these names that are less than the least."""
    for name in names:
        require(getattr(config, name) >= least, f"{name} is {getattr(config, name)}: give {least} or more")


def require_positive(config: Any, *names: str) -> None:
    """Refuse options of these names that are not above 0."""
    for name in names:
        require(getattr(config, name) > 0, f"{name} is {getattr(config, name)}: give a positive number")


def require_choices(config: Any) -> None:
    """Refuse options whose values are not among those of their `Literal` types."""
    for name, choices in _choices(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        require(value in choices, f"{name} is {value!r}: give one of {', '.join(choices)}")


@functools.cache
def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    return {name: get_args(kind) for name, kind in get_type_hints(cls).items() if get_origin(kind) is Literal}


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dictionaries, as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def options_by_name(values: dict[str, Any]) -> dict[str, Any]:
    """The options of `to_dict`'s nested dictionaries, at whatever depth, by their (unique) names."""
    options: dict[str, Any] = {}
    for name, value in values.items():
        options |= options_by_name(value) if isinstance(value, dict) else {name: value}
    return options


def told_options(config: Any) -> dict[str, Any]:
    """`to_dict` without the options that were added later and have their default."""
    options: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            options[f.name] = told_options(value)
        elif not (f.metadata.get("may_be_missing") and value == f.default):
            options[f.name] = list(value) if isinstance(value, tuple) else value
    return options


def from_dict(cls: type[C], values: dict[str, Any]) -> C:
    """The dataclass `cls` from `to_dict`'s dictionary; an option that was added later may be missing.

    Raises:
      ValueError: an unknown or a missing key, named, or a value that its class refuses.
    """
    require(isinstance(values, dict), f"{cls.__name__} is {str(values)[:80]!r}: not a JSON object")
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    added = {f.name for f in dataclasses.fields(cls) if f.metadata.get("may_be_missing")}  # type: ignore[arg-type]
    unknown, missing = sorted(set(values) - names), sorted(names - added - set(values))
    require(not unknown, f"{cls.__name__} has no option {', '.join(unknown)}: was this written by a newer version?")
    require(not missing, f"{cls.__name__} lacks the option {', '.join(missing)}: was this written by an older version?")
    types = get_type_hints(cls)
    return cls(**{name: _convert(name, types[name], value) for name, value in values.items()})


def with_options(config: C, options: dict[str, Any]) -> C:
    """A copy of a config whose options of these names have the values that JSON or YAML gave.

    Raises:
      ValueError: an unknown name, or a value that its class refuses.
    """
    return from_dict(type(config), {**to_dict(config), **options})


JSON_TYPES = {int: (int,), float: (int, float), str: (str,), bool: (bool,), type(None): (type(None),)}
"""Types that JSON may give for a field of a plain type; True is not a number."""


def _convert(name: str, kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)  # type: ignore[arg-type]
    wanted = kind.__name__ if type(kind) is type else kind
    require(_fits(value, kind), f"{name} is {repr(value)[:80]}: it must be {wanted}")
    return tuple(value) if isinstance(value, list) else value


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON has a field's type; choices are checked by their own classes."""
    if get_origin(kind) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(part, get_args(kind)[0]) for part in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(part, get_args(kind)[1]) for part in value.values())
    if isinstance(kind, UnionType):
        return any(_fits(value, part) for part in get_args(kind))
    return type(value) in JSON_TYPES.get(kind, (type(value),))


def replace_fields(config: C, values: dict[str, Any]) -> C:
    """A copy of a config tree in which the fields of these (unique) names, at any depth, have new values.

    Raises:
      ValueError: a name that no dataclass of the tree has.
    """
    left = dict(values)
    result = _replace(config, left)
    require(not left, f"no option is called {', '.join(sorted(left))}")
    return result


def _replace(config: C, left: dict[str, Any]) -> C:
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _replace(value, left)
        elif f.name in left:
            changes[f.name] = left.pop(f.name)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
