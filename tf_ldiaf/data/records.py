"""Images in files, such as a TFDS data set's: read whole, or as a stream, again in every epoch."""

import contextlib
import dataclasses
import itertools
import pathlib
import re
import typing
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from tf_ldiaf.data import pictures
from tf_ldiaf.errors import DataError

_READ_BATCH = 256
# Records of a stream are permuted so many at a time: memory and mixing are bounded by it.
_SHUFFLED = 16_384
# As many workers can each read files of their own.
_MOST_STREAMS = 32


class Part(typing.NamedTuple):
    """Consecutive records of one file."""

    path: str
    first: int
    num: int


@dataclasses.dataclass(frozen=True)
class Records:
    """Images in files, one record each; `len` and `shape` are those of their array.

    Args:
        parts: where they are.
        decode: a function of records [n], strings, to images [n, H, W].
        image_shape: (H, W), or (H, W, 3).
        dtype: of the images.
    """

    parts: tuple[Part, ...]
    decode: Callable
    image_shape: tuple[int, ...]
    dtype: typing.Any

    @classmethod
    def of_split(cls, builder, split: str, keep_colour: bool = False) -> typing.Self:
        """A split of a prepared TFDS data set; colour becomes grey, unless `keep_colour`."""
        features, info = builder.info.features, builder.info.splits[split]
        image, spec = features["image"], {"image": features.tf_example_spec["image"]}

        shape = image.shape if keep_colour and image.shape[-1] == 3 else image.shape[:2]

        def decode(records):
            encoded = tf.io.parse_example(records, spec)["image"]
            x = tf.map_fn(image.decode_example, encoded, fn_output_signature=image.tf_dtype)
            if len(shape) == 2:
                x = (tf.image.rgb_to_grayscale(x) if image.shape[-1] == 3 else x)[..., 0]
            return tf.ensure_shape(x, [None, *shape])

        files = zip(info.filepaths, info.shard_lengths, strict=True)
        parts = [Part(str(path), 0, num) for path, num in files if num]
        return cls(tuple(parts), decode, shape, image.np_dtype)

    def __len__(self):
        return sum(part.num for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.image_shape)

    def then(self, function: Callable) -> typing.Self:
        """The same records with `function` applied to their images [n, H, W]."""
        return dataclasses.replace(self, decode=lambda records: function(self.decode(records)))

    def resized(self, image_size: tuple[int, ...]) -> typing.Self:
        """The same records with images of uint8 cropped and scaled, as `pictures.resized`."""
        shape = (*image_size, *self.image_shape[2:])

        def resized(x):
            return pictures.resized({"": x}, image_size)[""]

        def function(x):
            return tf.ensure_shape(tf.numpy_function(resized, [x], tf.uint8, stateful=False), [None, *shape])

        return dataclasses.replace(self.then(function), image_shape=shape)

    def only(self, is_good: Callable) -> typing.Self:
        """The same records; one that has a pixel of which `is_good` is not true cannot be read."""
        text = (
            "training images are not only black and white, as others of the set are or `binarization=none` needs them"
        )

        def checked(x):
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_good(x)), [text])]):
                return tf.identity(x)

        return self.then(checked)

    def held_out(self, fraction: float) -> tuple[typing.Self, typing.Self]:
        """The last records of each file, `fraction` of them, and the rest."""
        ends = [round(fraction * total) for total in itertools.accumulate(part.num for part in self.parts)]
        nums = [end - before for before, end in itertools.pairwise([0, *ends])]  # in all as many as `fraction` says
        held = [part._replace(first=part.first + part.num - n, num=n) for part, n in zip(self.parts, nums, strict=True)]
        rest = [part._replace(num=part.num - n) for part, n in zip(self.parts, nums, strict=True)]
        return tuple(dataclasses.replace(self, parts=tuple(p for p in parts if p.num)) for parts in (held, rest))  # pyright: ignore[reportReturnType]

    def array(self) -> np.ndarray:
        """All images, in the order of their files.

        Raises:
            DataError: a file is missing, damaged, or has fewer records than TFDS counted.
        """
        if not self.parts:
            return np.zeros((0, *self.image_shape), self.dtype)
        # Records are parsed by the hundred; TFDS's `as_dataset` takes them one at a time and three times as long.
        batches = self._read(self.parts).batch(_READ_BATCH).map(self.decode, num_parallel_calls=tf.data.AUTOTUNE)
        try:
            return np.concatenate(list(batches.as_numpy_iterator()))
        except tf.errors.OpError as error:
            raise self._unreadable(error) from None

    def read(self, path: tf.Tensor, first: tf.Tensor, num: tf.Tensor) -> tf.data.Dataset:
        """The records of a part."""
        records = tf.data.TFRecordDataset(path).skip(tf.cast(first, tf.int64)).take(num)
        return records.apply(tf.data.experimental.assert_cardinality(num))

    def steps(self, batch_size: int) -> int:
        """How many `batches` an epoch has."""
        num = self._num_streams(batch_size)
        return len(self) // num // (batch_size // num)

    def batches(self, batch_size: int, seed: int, epoch, part: int = 0, num_parts: int = 1) -> tf.data.Dataset:
        """One epoch's batches; the order is a function of the arguments, and of it a worker reads its own part.

        Each batch has as many images of every stream. A stream is an equal share of the records, read file by file,
        in an order and from a place drawn anew for each epoch, and permuted within `_SHUFFLED` records of all streams.

        Args:
            batch_size: B, of all parts together.
            seed: int.
            epoch: scalar int64 tensor.
            part, num_parts: which of how many equal parts of each batch. If they are as many as streams, or a divisor,
                nothing else is read.

        Returns:
            a dataset of `steps` batches [B / num_parts, H, W].
        """
        num = self._num_streams(batch_size)
        is_shared = bool(num % num_parts)
        streams = range(num) if is_shared else range(part * num // num_parts, (part + 1) * num // num_parts)
        epoch_seed = tf.stack([tf.constant(seed, tf.int32), tf.cast(epoch, tf.int32)])
        records = [self._stream(i, num, tf.random.fold_in(epoch_seed, i)) for i in streams]
        records = [stream.rebatch(batch_size // num, drop_remainder=True) for stream in records]
        size = batch_size // num_parts

        def joined(*records):
            records = tf.concat(records, axis=0)
            return records[part * size : (part + 1) * size] if is_shared else records

        batches = tf.data.Dataset.zip(*records).map(joined).take(self.steps(batch_size))
        return batches.map(self.decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _num_streams(self, batch_size):
        most = min(len(self.parts), _MOST_STREAMS)
        return max(num for num in range(1, most + 1) if batch_size % num == 0)

    def _stream(self, i, num, seed):
        """Stream i of `num`: a dataset of serialized records, several at a time."""
        parts = self._range(i * len(self) // num, (i + 1) * len(self) // num)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(parts)), seed=seed)  # pyright: ignore[reportAttributeAccessIssue]
        records = self._read(parts, order)
        # Else a stream of one file would be permuted within the same records in every epoch.
        longest = max(part.num for part in parts)
        first = tf.random.stateless_uniform([], seed, 0, longest, dtype=tf.int64)
        records = records.skip(first).concatenate(records.take(first))

        def shuffled(j, records):
            order_seed = tf.random.fold_in(seed, tf.cast(j + 1, tf.int32))
            places = tf.random.experimental.stateless_shuffle(tf.range(tf.size(records)), seed=order_seed)  # pyright: ignore[reportAttributeAccessIssue]
            return tf.gather(records, places)

        return records.batch(max(1, _SHUFFLED // num)).enumerate().map(shuffled)

    def _range(self, start, stop):
        """The parts of records `start` to `stop` - 1."""
        found, before = [], 0
        for part in self.parts:
            first, last = max(start - before, 0), min(stop - before, part.num)
            if first < last:
                found.append(part._replace(first=part.first + first, num=last - first))
            before += part.num
        return found

    def _read(self, parts, order=None):
        """A dataset of the records of `parts`, in that order or in `order`."""
        columns = [tf.constant(column) for column in zip(*parts, strict=True)]
        if order is not None:
            columns = [tf.gather(column, order) for column in columns]

        def of_file(path, first: typing.Any = None, num: typing.Any = None):
            return self.read(path, first, tf.cast(num, tf.int64))

        return tf.data.Dataset.from_tensor_slices(tuple(columns)).flat_map(of_file)

    def checksum(self) -> int:
        """Of where the records are and how large the files, not of what is in them."""
        try:
            sizes = [tf.io.gfile.stat(part.path).length for part in self.parts]
        except tf.errors.OpError as error:
            raise self._unreadable(error) from None
        stand = [(pathlib.PurePath(part.path).name, part.first, part.num) for part in self.parts]
        return zlib.crc32(repr((stand, sizes)).encode())

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Makes a sentence of what TensorFlow says when the next batch cannot be read; other errors pass.

        Raises:
            DataError: a file is missing or damaged, has fewer records than TFDS counted, or unusable images.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if "IteratorGetNext" not in str(error.message):
                raise
            raise self._unreadable(error) from None

    def _unreadable(self, error):
        ours = re.search(r"DataError: (.*)", str(error.message))
        if ours:
            return DataError(ours[1])
        # What is said of the place in TensorFlow's graph, before and after, says nothing to a user.
        lines = str(error.message).splitlines()
        ends = [i for i, line in enumerate(lines) if "[[{{" in line]
        line = lines[max(0, ends[0] - 1)] if ends else lines[0]
        reason = re.sub(r"\{\{.*?\}\} |Error in user-defined .*Iterator::\S*: | \[Op:.*", "", line)
        folder = pathlib.Path(self.parts[0].path).parent
        return DataError(f"`dataset` must have readable files. Received: {folder} ({reason[:300]}).")
