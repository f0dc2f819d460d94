"""Settings, each declared once: its type, its bounds and what is said of it on the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated

from .names import look_up

K = TypeVar("K", bound=type[Any])


class SettingError(ValueError):
    """A setting that is none, or a value that does not fit: which, what was expected and found."""


@dataclasses.dataclass(frozen=True)
class Option:
    """That a setting is an option of the command line."""

    help: str
    flags: str = ""
    """Where they are not ``--name``."""
    commas: bool = True
    """Whether commas separate several values."""


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("input should be a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Count = Annotated[Whole, Field(ge=1, le=10**9)]
Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(kind: K) -> K:
    """Make a frozen dataclass whose values are checked, and converted where nothing is lost.

    Raises:
        SettingError: from its constructor, in one line.

    >>> @settings
    ... class Training:
    ...     steps: Count = 5
    >>> Training(steps="7")
    Training(steps=7)
    >>> Training(steps=0)
    Traceback (most recent call last):
    domaingrad.bench.schema.SettingError: steps: input should be greater than or equal to 1; found
    0.
    """
    made: Any = validated(frozen=True, config=ConfigDict(extra="forbid"))(kind)
    construct = made.__init__

    @wraps(construct)
    def init(self: Any, *values: Any, **named: Any) -> None:
        try:
            construct(self, *values, **named)
        except ValidationError as error:
            raise SettingError(_in_one_line(made, error)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def options_of(kind: type[Any]) -> Iterator[tuple[str, Any, Any, Option]]:
    """Name, type, default and option of each setting that is one of the command line."""
    hints = get_type_hints(kind, include_extras=True)
    for entry in dataclasses.fields(kind):
        plain = get_type_hints(kind)[entry.name]
        for each in get_args(hints[entry.name])[1:]:
            if isinstance(each, Option):
                yield entry.name, plain, entry.default, each


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are not ``None``."""
    return {name: value for name, value in values.items() if value is not None}


def _in_one_line(kind: type[Any], error: ValidationError) -> str:
    """The first thing that is wrong, in words; a name in no list with the nearest one."""
    first = error.errors(include_url=False)[0]
    place, found = [str(part) for part in first["loc"]], first["input"]
    try:
        if first["type"] == "unexpected_keyword_argument":
            inner: Any = kind
            for name in place[:-1]:
                inner = get_type_hints(inner)[name]
            look_up("setting", place[-1], dict.fromkeys(e.name for e in dataclasses.fields(inner)))
        elif first["type"] == "literal_error":
            known = first["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            name = next(part for part in reversed(place) if not part.isdigit())
            look_up(name, str(found), dict.fromkeys(known))
    except ValueError as error_of_name:
        return str(error_of_name)
    if first["type"].startswith("missing"):
        return f"expected the setting {'.'.join(place)}; found none."
    said = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {said[0].lower()}{said[1:]}; found {found!r}."
