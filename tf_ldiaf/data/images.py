"""From a source to binary images, split three ways, and to batches of x."""

import typing

import numpy as np
import tensorflow as tf

from tf_ldiaf.config import Config, ConfigError
from tf_ldiaf.data import sources
from tf_ldiaf.data.records import Records
from tf_ldiaf.probability.noise import bernoulli

# The test set, and what `dynamic` draws once, are the same whatever the run's seed: numbers stay comparable.
_FIXED_SEED = 0
_TEST_FRACTION = 0.2
_STAND_IN_FRACTION = 0.2  # of the training images, for a validation set where none is held out
_DRAW_BATCH = 1000
# Of a stream, so many images at most are held in memory for validation, and for the test.
_MOST_HELD_OUT = 50_000


class Images(typing.NamedTuple):
    """Three sets of images, disjoint unless none is held out for validation, each [n, H, W], uint8 or float32.

    Pixels are 0 or 1, but for the training images of a dynamic binarisation: grey in 0-255 (uint8) or 0-1 (float32).
    Training images that are streamed are `Records` of uint8.
    """

    train: np.ndarray | Records
    valid: np.ndarray
    test: np.ndarray


def load(config: Config) -> Images:
    """The images of `config.dataset`, split and binarised.

    Splits that the source has are kept; a missing test set is a fifth of the images, drawn with a
    fixed seed, and a missing validation set is drawn from the training images with `config.seed`. Of a
    stream both are the last images of each file.

    Raises:
        ConfigError: a source that is missing, unreadable, empty, of a wrong shape or out of range,
            or grey where 0/1 is asked for. One sentence each.
    """
    if config.stream:
        return _open_stream(config)
    images = _split(sources.read(config.dataset, config.data_dir), config)
    _check_none_is_empty(images)
    return _binarized(images, config)


def read_images(file: str) -> np.ndarray:
    """The images of the first array of an .npz file, thresholded at one half: [n, H, W], float32 in {0, 1}.

    Raises:
        ConfigError: the file is missing or unreadable, or its array does not hold images.
    """
    return _thresholded(sources.read_first_array(file, "--reconstruct")).astype("float32")


def training_batches(
    images: np.ndarray | Records, config: Config, first_epoch: int = 0, strategy=None
) -> tf.data.Dataset:
    """Endless batches [B, H, W] of `images`, `steps_per_epoch` of them an epoch.

    The order is a function of (seed, epoch) alone. What does not fill a batch is left out of that epoch. With a
    `tf.distribute` strategy, each of its R replicas has [B / R, H, W] of every batch.
    """

    def of_part(part, num_parts):
        return _epochs(images, config, first_epoch, part, num_parts).flat_map(lambda batches: batches)

    return _spread(of_part, strategy)


def training_launches(
    images: np.ndarray | Records, config: Config, first_epoch: int = 0, first_launch: int = 0
) -> tf.data.Dataset:
    """The same batches, K at a time: what `LDIAF.train_step` trains on in one XLA program.

    K is at most `config.steps_per_execution`, and such that the launches of an epoch are about equal; an epoch's
    last launch may be filled up. Of the first epoch's first `first_launch` launches no batch is to be used.

    Returns:
        a dataset of `launches_per_epoch` elements an epoch: batches [K, B, H, W], and how many of
        them to use.
    """
    num = -(-steps_per_epoch(images, config) // launches_per_epoch(images, config))

    def filled_up(batches):
        used = tf.shape(batches)[0]
        padding = tf.scatter_nd([[0, 1]], [num - used], [tf.rank(batches), 2])
        return tf.ensure_shape(tf.pad(batches, padding), [num, *batches.shape[1:]]), used

    epochs = _epochs(images, config, first_epoch)
    launches = epochs.flat_map(lambda batches: batches.batch(num).map(filled_up)).enumerate()
    launches = launches.map(lambda i, launch: (launch[0], tf.where(i < first_launch, 0, launch[1])))
    return launches.prefetch(tf.data.AUTOTUNE)


def _epochs(images, config, first_epoch, part=0, num_parts=1):
    """A dataset of endless epochs, each a dataset of batches, or of one of equal parts of every batch."""
    batch, steps = _batch_size(images, config), steps_per_epoch(images, config)
    size = batch // num_parts
    pixels = None if isinstance(images, Records) else tf.constant(images)

    def one_epoch(epoch):
        if isinstance(images, Records):
            batches = images.batches(batch, config.seed, epoch, part, num_parts)
        else:
            seed = tf.stack([tf.constant(config.seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=seed)
            rows = tf.reshape(order[: steps * batch], [steps, batch])[:, part * size : (part + 1) * size]
            batches = tf.data.Dataset.from_tensor_slices(rows).map(lambda rows: tf.gather(pixels, rows))
        return batches.map(lambda x: tf.ensure_shape(x, [size, *images.shape[1:]]))

    return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).map(one_epoch)


def steps_per_epoch(images: np.ndarray | Records, config: Config) -> int:
    """Full batches in one pass over `images`."""
    batch = _batch_size(images, config)
    return images.steps(batch) if isinstance(images, Records) else len(images) // batch


def launches_per_epoch(images: np.ndarray | Records, config: Config) -> int:
    """`training_launches` in one pass over `images`."""
    return -(-steps_per_epoch(images, config) // config.steps_per_execution)


def evaluation_batches(images: np.ndarray, batch_size: int, strategy=None) -> tf.data.Dataset:
    """Batches (x, x, weight) in order, all of one size: the last is filled up with images of weight 0.

    One size means one compilation, and the weights keep the padding out of every mean. With a `tf.distribute` strategy
    the size is a multiple of its replicas, and each has its part of every batch.
    """
    size = evaluation_batch_size(images, batch_size, strategy)
    padding = -len(images) % size
    padded = np.concatenate([images, np.resize(images, (padding, *images.shape[1:]))])
    weights = np.concatenate([np.ones(len(images), "float32"), np.zeros(padding, "float32")])

    def as_example(x, weight):
        x = tf.cast(x, tf.float32)
        return x, x, weight

    batches = tf.data.Dataset.from_tensor_slices((padded, weights)).batch(size, drop_remainder=True).map(as_example)

    def of_part(part, num_parts):
        own = slice(part * size // num_parts, (part + 1) * size // num_parts)
        return batches.map(lambda *batch: tuple(x[own] for x in batch))

    return _spread(of_part, strategy)


def num_evaluation_batches(images: np.ndarray, batch_size: int, strategy=None) -> int:
    """How many `evaluation_batches` there are."""
    return -(-len(images) // evaluation_batch_size(images, batch_size, strategy))


def evaluation_batch_size(images: np.ndarray, batch_size: int, strategy=None) -> int:
    """How many images each of `evaluation_batches` has, what fills up the last among them."""
    size = min(batch_size, len(images))
    return size + -size % (strategy.num_replicas_in_sync if strategy is not None else 1)


def _spread(of_part, strategy):
    """Batches for the replicas of `strategy`, which have as many images of each, in order.

    Args:
        of_part: a function of (part, num_parts) to the dataset of one of so many equal parts of every batch.
        strategy: a `tf.distribute` strategy, or None: one device.
    """
    num = strategy.num_replicas_in_sync if strategy is not None else 1
    if num == 1:
        return of_part(0, 1).prefetch(tf.data.AUTOTUNE)

    def of_this_machine(context):
        here = num // context.num_input_pipelines

        def replicas(*batch):
            split = [tf.reshape(x, [here, x.shape[0] // here, *x.shape[1:]]) for x in batch]
            return tf.data.Dataset.from_tensor_slices(tuple(split) if len(split) > 1 else split[0])

        parts = of_part(context.input_pipeline_id, context.num_input_pipelines)
        return parts.flat_map(replicas).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_this_machine)


def _batch_size(images, config):
    return min(config.batch_size, len(images))


# From a source to binary images


def _open_stream(config):
    train, *held = typing.cast(
        "tuple[Records, ...]", _split(sources.open_records(config.dataset, config.data_dir), config)
    )
    if np.dtype(train.dtype) != "uint8":
        raise ConfigError(f"--stream needs images of uint8. Received: {config.dataset} of {np.dtype(train.dtype)}.")
    read = [_part_of(records, 1.0)[0].array() for records in held]
    _check_none_is_empty(Images(train, *read))
    if all((x <= 1).all() for x in read):  # then the training images must be so too
        train = train.then(lambda x: 255 * _only(x, x <= 1))
    if config.binarization == "none":
        train = train.then(lambda x: _only(x, (x == 0) | (x == 255)))
    if config.binarization != "dynamic":
        train = train.then(lambda x: tf.cast(x > 127, tf.uint8))
    pictures = sources.as_pictures(dict(zip(("valid", "test"), read, strict=True)), "--dataset")
    return _binarized(Images(train, **pictures), config)


def _only(x, is_good):
    """x, where all of it is good."""
    text = "training images are not only black and white, as others of the set are or --binarization=none needs them"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_good), [text])]):
        return tf.identity(x)


def _check_none_is_empty(images):
    for name, x in images._asdict().items():
        if not len(x):
            raise ConfigError(f"--dataset must leave at least one image in each set. Received: no {name} image.")


def _split(splits, config):
    train, test = splits["train"], splits.get("test")
    if test is None:
        test, train = _held_out(train, _TEST_FRACTION, _FIXED_SEED)
    valid = splits.get("valid")
    if valid is None and config.validation_fraction:
        valid, train = _held_out(train, config.validation_fraction, config.seed)
    elif valid is None:
        valid, _ = _held_out(train, _STAND_IN_FRACTION, config.seed)
    if config.limit_train and config.limit_train < len(train):
        train, _ = _held_out(train, config.limit_train / len(train), config.seed)
    return Images(train, valid, test)


def _held_out(x, fraction, seed) -> tuple[typing.Any, typing.Any]:
    """A random part of x, and the rest; of `Records` see `_part_of`."""
    if isinstance(x, Records):
        return _part_of(x, fraction)
    order = np.random.default_rng(seed).permutation(len(x))
    num = round(fraction * len(x))
    return x[np.sort(order[:num])], x[np.sort(order[num:])]


def _part_of(records, fraction):
    """As many of the last images of each file as `fraction` says and memory should hold, and the rest."""
    return records.held_out(min(fraction, _MOST_HELD_OUT / max(1, len(records))))


def _binarized(images, config):
    """Whatever of `images` is an array becomes binary."""
    if config.binarization == "dynamic":
        drawn = [_draw_once(x, split) for split, x in enumerate(images[1:])]
        return Images(images.train, *drawn)
    if config.binarization == "none":
        for name, x in _arrays(images).items():
            if not ((x == 0) | (x == (255 if x.dtype == "uint8" else 1))).all():
                raise ConfigError(
                    f"--binarization=none needs pixels that are all 0 or 1. Received: grey {name} images in "
                    f"{config.dataset}; threshold and dynamic make them binary."
                )
    return images._replace(**{name: _thresholded(x) for name, x in _arrays(images).items()})


def _arrays(images):
    return {name: x for name, x in images._asdict().items() if not isinstance(x, Records)}


def _thresholded(x):
    return (x > (127 if x.dtype == "uint8" else 0.5)).astype("uint8")


def _draw_once(x, split):
    chunks = [
        bernoulli(tf.constant(x[i : i + _DRAW_BATCH]), tf.constant([_FIXED_SEED + split, i], tf.int32)).numpy()
        for i in range(0, len(x), _DRAW_BATCH)
    ]
    return np.concatenate(chunks).astype("uint8") if chunks else x
