"""The settings as flags of a command, grouped in `--help` by what they are about."""

import dataclasses
from typing import Any

from absl import flags

from tf_ldiaf.config import Config, DataSettings, ExecutionSettings, ModelSettings, TrainingSettings
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.fields import kind_of

_GROUPS = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings, "execution": ExecutionSettings}
_DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}


def define_settings(flag_values: flags.FlagValues) -> None:
    """Defines one absl flag per setting in `flag_values`."""
    for group, settings in _GROUPS.items():
        for field in dataclasses.fields(settings):
            _define(field, group, flag_values)


def given_settings(flag_values: flags.FlagValues) -> dict[str, Any]:
    """The settings that the command line or a flagfile gave, for `Config.from_json`.

    Raises:
        ConfigError: a list flag that holds something other than whole numbers.
    """
    given = {}
    for field in dataclasses.fields(Config):
        flag: Any = flag_values[field.name]
        if flag.present:
            given[field.name] = _integers(field.name, flag.value) if kind_of(field) is tuple else flag.value
    return given


def _define(field, group, flag_values):
    kind, default, text = kind_of(field), field.default, field.metadata["help"]
    if kind is tuple:
        flags.DEFINE_list(
            field.name,
            [str(v) for v in default or ()],
            text + " Separated by commas.",
            flag_values=flag_values,
            module_name=group,
        )
    elif field.metadata["choices"]:
        flags.DEFINE_enum(
            field.name, default, field.metadata["choices"], text, flag_values=flag_values, module_name=group
        )
    else:
        _DEFINE[kind](field.name, default, text, flag_values=flag_values, module_name=group)


def _integers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise ConfigError(f"`{name}` must be whole numbers separated by commas. Received: {','.join(texts)}.") from None
