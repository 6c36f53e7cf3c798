"""Which set of images a name means: training, validation or test."""

import re
import typing
from collections.abc import Callable, Iterable

import numpy as np

from tf_ldiaf.errors import DataError

_WORDS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid"}
_WORDS |= {"dev": "valid", "test": "test", "testing": "test"}
_LABELS = {"y", "label", "labels", "target", "targets", "class", "classes"}


class Source(typing.NamedTuple):
    """One set of images that is not read yet."""

    array: Callable[[], np.ndarray]  # reads it
    checksum: Callable[[], int]  # of its files


def set_named(name: str) -> str | None:
    """train, valid or test, as a folder's, an array's or a split's name says; None if it says neither, or labels."""
    found = _sets_named(name)
    return found.pop() if len(found) == 1 else None


def _sets_named(name):
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    found = {_WORDS[word.removeprefix("x")] for word in words if word.removeprefix("x") in _WORDS}
    return set() if words & _LABELS else found


def by_set(names: Iterable[str], where: str) -> dict[str, str]:
    """train, valid, test -> the one of `names` that means it, of those that mean one.

    Raises:
        DataError: two names mean one set, or one name means two; it says `where`.
    """
    found: dict[str, str] = {}
    for name in names:
        if len(_sets_named(name)) > 1:
            raise DataError(f"`dataset` must have names of one set each. Received: {where}, which has {name}.")
        meant = set_named(name)
        if meant in found:
            raise DataError(
                f"`dataset` must have one {meant} set. Received: {where}, which has {found[meant]} and {name}."
            )
        if meant:
            found[meant] = name
    return found
