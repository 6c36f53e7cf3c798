"""One checked setting: a field of a dataclass with its default, meaning and range."""

import dataclasses
import json
import math
import os
import typing
from typing import Any

from tf_ldiaf.errors import ConfigError

_MOST = 2**31 - 1  # of any whole number: it fits what counts


def setting(
    default: Any,
    text: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    choices: tuple[str, ...] = (),
    needs: str = "",
) -> Any:
    """A field with its help text, its range (`open_*`: the end itself is excluded), and what it `needs`."""
    if high == math.inf:
        interval = f"greater than {low:g}" if open_low else f"at least {low:g}"
    else:
        interval = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    metadata = {
        "help": text,
        "choices": choices,
        "needs": needs,
        "interval": interval,
        "admits": lambda value: (
            (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        ),
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Checked:
    """A dataclass of such fields, each of which is checked when one is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._set(field.name, _checked(field, getattr(self, field.name)))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def kind_of(field: dataclasses.Field) -> type:
    """bool, int, float, str or tuple: what a setting is."""
    return typing.get_origin(field.type) or field.type  # pyright: ignore[reportReturnType]


def to_text(value: Any) -> str:
    """A value as its flag takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def checked(settings: type[Checked], **values: Any) -> dict[str, Any]:
    """The values, each as the setting of that name admits it.

    Raises:
        ConfigError: it does not.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    return {name: _checked(fields[name], value) for name, value in values.items()}


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """`value` if the setting admits it (an int for a float setting becomes a float)."""
    kind, name = kind_of(field), field.name
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        value = value.tolist()
    if kind is tuple and isinstance(value, (list, tuple)):
        value = tuple(number.tolist() if hasattr(number, "tolist") else number for number in value)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None and field.default is None:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {tuple: "a list of whole numbers", str: "a string", int: "a whole number", bool: "true or false"}
        raise ConfigError(
            f"`{name}` must be {expected.get(kind, 'a number')}. Received: {json.dumps(value, default=str)}."
        )
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"`{name}` must be one of {', '.join(choices)}. Received: {value}.")
    if kind is tuple and not value and field.default:
        raise ConfigError(f"`{name}` must name at least one width. Received: nothing.")
    numbers: Any = value if kind is tuple else (value,) if kind in (int, float) else ()
    for number in numbers:
        if type(number) not in (int, float) or (kind is tuple and type(number) is not int):
            raise ConfigError(f"`{name}` must be a list of whole numbers. Received: {json.dumps(value, default=str)}.")
        if not ((kind is not float or math.isfinite(number)) and field.metadata["admits"](number)):
            raise ConfigError(f"`{name}` must be {field.metadata['interval']}. Received: {number}.")
        if kind is not float and number > _MOST:
            raise ConfigError(f"`{name}` must be at most {_MOST}. Received: {number}.")
    return value
