"""The images of a data set, split and binary: those that a model is trained with, and those of its test."""

import math
import os
import typing
import zlib
from collections.abc import Mapping

import numpy as np

from tf_ldiaf.config import DataSettings
from tf_ldiaf.data import numpy_files, pictures, sources
from tf_ldiaf.data.arrays import as_coloured, as_pictures, check_images_first
from tf_ldiaf.data.binarization import binarize, eight_bit, threshold
from tf_ldiaf.data.records import Records
from tf_ldiaf.data.splits import Source, set_named
from tf_ldiaf.errors import DataError
from tf_ldiaf.paths import as_path

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the test set is the same whatever the run's seed: numbers stay comparable
_STAND_IN_FRACTION = 0.2  # of the training images, for a validation set where none is held out
# Of a stream, so many images at most are held in memory for validation, and for the test.
_MOST_HELD_OUT = 50_000


class TrainingImages(typing.NamedTuple):
    """Two sets of images, disjoint unless none is held out for validation, each [n, H, W], uint8 or float32.

    Pixels are 0 or 1, but for the training images of a dynamic binarisation: grey in 0-255 (uint8) or 0-1 (float32).
    With another likelihood than bernoulli all are uint8 in 0-255.
    Training images that are streamed are `Records` of uint8.
    """

    train: np.ndarray | Records
    valid: np.ndarray

    def checksums(self) -> dict[str, int]:
        """Of both sets, by their names."""
        train = self.train
        train = train.checksum() if isinstance(train, Records) else zlib.crc32(np.ascontiguousarray(train).data)
        return {"train": train, "valid": zlib.crc32(np.ascontiguousarray(self.valid).data)}


def load_training(settings: DataSettings, seed: int) -> TrainingImages:
    """The images to train with and those to validate with, split and binarised.

    Splits that the source has are kept; without a `validation_fraction` its validation images are trained on, too. A
    missing validation set is drawn from the training images with `seed`, after a missing test set. Of a stream both are
    the last images of each file. A test set that the source has is not read, unless `sources.read` needs it to tell
    binary images from nearly black ones.

    Raises:
        DataError: a source that is missing, unreadable, empty, of a wrong shape or out of range,
            or grey where 0/1 is asked for; images that are all of one colour. One sentence each.
    """
    splits = sources.open_splits(settings)
    if not settings.stream:
        splits |= sources.read(splits, ["train", "valid"], settings)
    test, train = _test_apart(splits)
    if "valid" in splits and not settings.validation_fraction:
        if settings.stream:
            raise DataError(
                "`validation_fraction` must not be 0 for a stream that has validation images. "
                f"Received: {settings.dataset}."
            )
        train: typing.Any = np.concatenate([np.asarray(train), splits["valid"]])
        valid, _ = _held_out(train, _STAND_IN_FRACTION, seed)
    elif "valid" in splits:
        valid = splits["valid"]
    elif settings.validation_fraction:
        valid, train = _held_out(train, settings.validation_fraction, seed)
    else:
        valid, _ = _held_out(train, _STAND_IN_FRACTION, seed)
    if settings.limit_train and settings.limit_train < len(train):
        train, _ = _held_out(train, settings.limit_train / len(train), seed)
    _check_not_empty(train, "train")
    _check_not_empty(valid, "valid")
    if settings.stream:
        valid, is_binary = _read_part(valid, test, settings)
        if is_binary:
            train = train.only(lambda x: x <= 1)
            train = train.then(lambda x: 255 * x)
    images = TrainingImages(binarize(train, settings, "train"), binarize(valid, settings, "valid"))
    first = images.valid.flat[0]
    if all((part == part.flat[0]).all() for part in images if not isinstance(part, Records)):
        colour = "white" if first else "black"
        raise DataError(
            f"`dataset` must have images with something in them. Received: {settings.dataset}, whose images are all "
            f"{colour} with `binarization={settings.binarization}`."
        )
    return images


def load_test(settings: DataSettings) -> np.ndarray:
    """The test images, [n, H, W], uint8 of 0 and 1, or as the likelihood has them; of a stream 50,000 at most.

    A source without a test set has a fifth of its training images for one, drawn with a fixed seed; of a stream the
    last of each file. Otherwise no training image is read, unless `sources.read` needs them to tell binary images from
    nearly black ones.

    Raises:
        DataError: as of `load_training`.
    """
    splits = sources.open_splits(settings)
    if not settings.stream:
        splits |= sources.read(splits, ["test" if "test" in splits else "train"], settings)
    test, rest = _test_apart(splits)
    _check_not_empty(test, "test")
    if settings.stream:
        test, _ = _read_part(test, splits.get("valid", rest), settings)
    return binarize(test, settings, "test")


def test_checksum(settings: DataSettings) -> int:
    """Of the files that the images of `load_test` come from, errors as of it."""
    splits = sources.open_splits(settings)
    return splits.get("test", splits["train"]).checksum()


def described(settings: DataSettings, images: TrainingImages | np.ndarray) -> str:
    """One line: how many images of what size and kind `load_training` or `load_test` took, and from where."""
    if isinstance(images, TrainingImages):
        num, shape = f"{len(images.train):,} to train and {len(images.valid):,} to validate with", images.valid.shape
    else:
        num, shape = f"{len(images):,} to test with", images.shape
    kind = {
        "threshold": "made black and white at half grey",
        "dynamic": "made black and white by draws from their grey",
        "256 values": "of 256 values",
    }
    kind = kind.get(settings.kind_of_pixels, "black and white as they are")
    return f"Images of {settings.dataset}: {num}; {' x '.join(map(str, shape[1:]))} pixels, {kind}."


def load(
    path: str | os.PathLike,
    *,
    color: str = "keep",
    image_size: tuple[int, ...] = (),
    arrays: Mapping[str, str] | None = None,
    value_range: tuple[float, float] | None = None,
    skip_unreadable: bool = False,
) -> dict[str, np.ndarray]:
    """The images of a file or a folder, as they are: each set that it has, among train, valid and test.

    Args:
        path: of the file or folder, of any kind that the flag --dataset takes.
        color: keep, or grey for images that become grey.
        image_size: (H, W) that images are cropped and scaled to.
        arrays: which arrays of a file the sets are, such as {"train": "x"}, where their names do not say it.
        value_range: what values are black and white, where they do not say it.
        skip_unreadable: whether pictures that cannot be read are left out.

    Returns:
        set -> [n, H, W], or [n, H, W, 3] of colour: uint8 in 0-255, or float32 in 0-1.

    Raises:
        DataError, ConfigError: as of `load_training`.
    """
    settings = DataSettings(
        dataset=_as_existing(path),
        color=color,
        image_size=image_size,
        arrays=",".join(f"{split}:{name}" for split, name in (arrays or {}).items()),
        value_range=",".join(map(str, value_range or ())),
        skip_unreadable=skip_unreadable,
    )
    return sources.read(sources.open_splits(settings), ["train", "valid", "test"], settings)


def read_images(
    file: str | os.PathLike,
    argument: str = "file",
    is_binary: bool = True,
    value_range: tuple[float, float] | None = None,
    image_shape: tuple[int, ...] = (),
) -> np.ndarray:
    """The images of a file or a folder, thresholded at one half: [n, H, W], float32 in {0, 1}.

    If they are not to be binary: uint8 in 0-255, and in colour [n, H, W, 3]. Of an .npz file they are its first array,
    of others the set that the file's name says, or the training set. A picture is one image.

    Args:
        file: the file or the folder.
        argument: what it is called in errors.
        is_binary: see above.
        value_range: what values are black and white, where they do not say it.
        image_shape: of the model that they are for. Grey ones become [n, H, W, 3] for one of colour. Rows of pixels, if
            they are no squares, are pictures of it.

    Raises:
        DataError: the file is missing or unreadable, or does not hold images; or more than one, and all are of one
            colour once they are binary. It speaks of `argument`.
    """
    path = as_path(file, argument)
    if path.suffix == ".npz":
        first = numpy_files.read_first(path, f"`{argument}`")
        for name, x in first.items():
            check_images_first(name, x, f"`{argument}`")
        arrays = as_pictures(first, f"`{argument}`", value_range, keep_colour=not is_binary)
    else:
        try:
            color = "grey" if is_binary else "keep"
            if pictures.is_one(path):
                picture = {"": pictures.one(path, color, keep_values=value_range is not None)}
                arrays = as_pictures(picture, f"`{argument}`", value_range, keep_colour=not is_binary)
            else:
                limits = ",".join(map(str, value_range or ()))
                settings = DataSettings(dataset=_as_existing(path), color=color, value_range=limits)
                sets = sources.open_splits(settings)
                # A file of test images may lie beside one of training images.
                named = set_named(path.name) if path.is_file() else None
                arrays = sources.read(sets, [named if named in sets else "train"], settings)
        except DataError as error:
            text = str(error).replace("`dataset`", f"`{argument}`").replace(", or `skip_unreadable` be given", "")
            hint = " `tf_ldiaf.data.load` has these arguments." if "`image_size`" in text or "`arrays`" in text else ""
            raise DataError(text + hint) from None
    if not any(len(x) for x in arrays.values()):
        raise DataError(f"`{argument}` must be a file with images. Received: {file}, which has none.")
    [images] = arrays.values()
    if images.shape[1] == 1 and images[0].size == math.prod(image_shape):
        images = images.reshape(len(images), *image_shape)
    if not is_binary:
        return eight_bit(as_coloured(images) if len(image_shape) == 3 else images)
    images = threshold(images).astype("float32")
    if len(images) > 1 and (images == images.flat[0]).all():
        raise DataError(
            f"`{argument}` must have images with something in them, or `value_range` say what is black and white. "
            f"Received: {file}, whose images are all {'white' if images.flat[0] else 'black'} at half grey."
        )
    return images


def _as_existing(path):
    """What `DataSettings` takes for a path, and not for a name of TFDS."""
    found = as_path(path, "path")
    if not found.exists():
        raise DataError(f"`path` must be a file or a folder that exists. Received: {path}.")
    return str(found.absolute())


def _test_apart(splits):
    """The test images, and the training images without them."""
    if "test" in splits:
        return splits["test"], splits["train"]
    return _held_out(splits["train"], _TEST_FRACTION, _TEST_SEED)


def _held_out(x, fraction, seed):
    """A random part of x, and the rest; of `Records` see `_part_of`."""
    if isinstance(x, Records):
        return _part_of(x, fraction)
    order = np.random.default_rng(seed).permutation(len(x))
    num = round(fraction * len(x))
    return x[np.sort(order[:num])], x[np.sort(order[num:])]


def _part_of(records, fraction):
    """As many of the last images of each file as `fraction` says and memory should hold, and the rest."""
    return records.held_out(min(fraction, _MOST_HELD_OUT / max(1, len(records))))


def _read_part(records, others, settings):
    """As many images of a stream as memory should hold, and whether they are binary, which `others` must then be."""
    part, other = (_part_of(x, 1.0)[0] for x in (records, others))
    x = part.array()
    both = {"part": Source(lambda: x, lambda: 0), "other": Source(other.array, other.checksum)}
    [pictures] = sources.read(both, ["part"], settings).values()
    return pictures, (x <= 1).all()


def _check_not_empty(images, split):
    if not len(images):
        raise DataError(f"`dataset` must leave at least one image in each set. Received: no {split} image.")
