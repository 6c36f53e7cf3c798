"""Which set of images a name means: training, validation or test."""

import re
import typing
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tf_ldiaf.errors import DataError

_WORDS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid"}
_WORDS |= {"dev": "valid", "test": "test", "testing": "test", "t10k": "test"}
_WORD = re.compile(r"t10k|[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # xTrain has two
_LABELS = {"y", "label", "labels", "target", "targets", "class", "classes"}
FEWEST_NUMBERS = 16  # a row of fewer is no picture, unless its name says so


class Source(typing.NamedTuple):
    """One set of images that is not read yet."""

    array: Callable[[], np.ndarray]  # reads it
    checksum: Callable[[], int]  # of its files


def set_named(name: str) -> str | None:
    """train, valid or test, as a folder's, an array's or a split's name says; None if it says neither, or labels."""
    found = _sets_named(name)
    return found.pop() if len(found) == 1 else None


def _words(name):
    return {word.lower() for word in _WORD.findall(name)}


def without_set(name: str) -> str:
    """The name with a star for each word that means a set: files that differ in it alone belong together."""
    return _WORD.sub(lambda word: "*" if word[0].lower().removeprefix("x") in _WORDS else word[0], name)


def _sets_named(name):
    words = {word.removeprefix("x") for word in _words(name)}
    return set() if is_label(name) else {_WORDS[word] for word in words if word in _WORDS}


def is_label(name: str) -> bool:
    """Whether an array's or a file's name says that it holds labels."""
    return bool(_words(name) & _LABELS)


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


def arrays_by_set(
    shapes: Mapping[str, tuple[int, ...] | None], where: str, chosen: Mapping[str, str], wanted: str = "train"
) -> dict[str, str]:
    """train, valid, test -> the array of a file that holds it.

    Args:
        shapes: of each array, under its name; None of what is no array of numbers.
        where: the file, for errors.
        chosen: what the user says of them. Otherwise names say it; or there is only one array that may be images.
        wanted: the set that the file must have.

    Raises:
        DataError: neither says which array the wanted set is; or another array may be images of them, too.
    """
    missing = [name for name in chosen.values() if name not in shapes]
    found = dict(chosen) if chosen else by_set(shapes, where)
    if not found:
        numbers = {name: shape for name, shape in shapes.items() if shape and not is_label(name)}
        images = [name for name, shape in numbers.items() if len(shape) > 2]
        images = images or [name for name, shape in numbers.items() if len(shape) == 2 and shape[1] >= FEWEST_NUMBERS]
        if len(images) == 1:
            return {wanted: images[0]}
    if missing or wanted not in found:
        listed = ", ".join(f"{name} {list(shape) if shape else 'of no numbers'}" for name, shape in shapes.items())
        raise DataError(
            "`dataset` must have arrays named like train, valid, test or x_train, x_val, x_test; or `arrays` must say "
            f"which they are, as train:NAME,test:NAME. Received: {where}, which has {listed[:300] or 'none'}."
        )
    alike = [] if chosen else [name for name in shapes if name not in found.values() and not is_label(name)]
    alike = [name for name in alike if _is_like(shapes[name], shapes[found[wanted]])]
    if alike:
        raise DataError(
            "`dataset` must have names of sets for all of its images, or `arrays` must say which they are, as "
            f"train:{found[wanted]}. Received: {where}, in which {alike[0]} may be images, too."
        )
    return found


def _is_like(shape, of_images):
    """Whether an array may have images of the same size."""
    are_known = shape and of_images and shape[1:] == of_images[1:]
    return are_known and (len(shape) > 2 or (len(shape) == 2 and shape[1] >= FEWEST_NUMBERS))


def checksum(content: Iterable[bytes]) -> int:
    """Of a file that is read in pieces."""
    found = 0
    for piece in content:
        found = zlib.crc32(piece, found)
    return found
