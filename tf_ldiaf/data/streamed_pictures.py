"""Images in the picture files of a folder, as a stream: read again in every epoch."""

import dataclasses
import os
import pathlib
import zlib

import numpy as np
import tensorflow as tf

from tf_ldiaf.data import pictures
from tf_ldiaf.data.records import Part, Records
from tf_ldiaf.errors import DataError

_FIRST = 64  # pictures of the training set, one of which has colour if images have


@dataclasses.dataclass(frozen=True)
class Pictures(Records):
    """The pictures of one set of a folder. A record is the name of one; all together are one `Part`."""

    names: tuple[str, ...] = ()

    def read(self, path: tf.Tensor, first: tf.Tensor, num: tf.Tensor) -> tf.data.Dataset:
        return (
            tf.data.Dataset.from_tensor_slices([os.fsencode(name) for name in self.names])
            .skip(tf.cast(first, tf.int64))
            .take(num)
        )

    def checksum(self) -> int:
        """Of the names and sizes of the pictures."""
        [(path, first, num)] = self.parts
        return zlib.crc32(repr([(name, _size(path, name)) for name in self.names[first : first + num]]).encode())


def _size(path, name):
    try:
        return os.path.getsize(os.path.join(path, name))
    except OSError as error:
        raise DataError(
            f"`dataset` must hold readable pictures. Received: {path}, {name} ({error.strerror})."
        ) from None


def _without_flags(error):
    """The error without advice that a stream cannot take."""
    text = str(error).replace(", or `skip_unreadable` be given", "")
    hint = " With `stream` it is not taken." if "`value_range`" in text else ""
    return DataError(f"{text}{hint}")


def open_stream(path: pathlib.Path, reading: pictures.Reading) -> dict[str, Records]:
    """The sets of a folder, as `pictures.open_folder`. Training pictures are in a random order, always the same."""
    sets, _ = pictures.pictures_by_set(pictures.names_in(path), path)
    sets["train"] = [sets["train"][i] for i in np.random.default_rng(0).permutation(len(sets["train"]))]

    content = pictures.readable(lambda name: (path / name).read_bytes())
    paper = pictures.paper_of(sets["train"], content)

    def read(names):
        try:
            return pictures.decoded(names, content, path, reading, paper)[0]
        except DataError as error:  # an epoch must have as many pictures as the one before
            raise _without_flags(error) from None

    # Every batch is read together with this one, and so has its size and colour.
    first = sets["train"][:_FIRST]
    model = next((name for name in first if read([name]).ndim == 4), first[0])
    found = read(first)
    try:
        pictures.check_bright(found, first, content, path)
    except DataError as error:
        raise _without_flags(error) from None
    shape = read([model]).shape[1:]

    def decoded(names):
        x = read([model, *map(os.fsdecode, names)])[1:]
        if x.shape[1:] != shape:
            raise DataError(
                "`dataset` must be all of colour, or `color` be grey. "
                f"Received: {path}, of which {_FIRST} pictures were looked at and are grey, and others are not."
            )
        return x

    def decode(names):
        return tf.ensure_shape(tf.numpy_function(decoded, [names], tf.uint8), [None, *shape])

    def records(names):
        return Pictures((Part(str(path), 0, len(names)),), decode, shape, np.uint8, tuple(names))

    return {split: records(names) for split, names in sets.items()}
