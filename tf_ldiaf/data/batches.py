"""From binary or grey images to batches of x, for training and for evaluation."""

import numpy as np
import tensorflow as tf

from tf_ldiaf.data.records import Records


def training_batches(
    images: np.ndarray | Records, *, batch_size: int, seed: int, first_epoch: int = 0, strategy=None
) -> tf.data.Dataset:
    """Endless batches [B, H, W] of `images`, `steps_per_epoch` of them an epoch.

    B is `batch_size`, or the number of images if that is smaller. The order is a function of (seed, epoch) alone. What
    does not fill a batch is left out of that epoch. With a `tf.distribute` strategy, each of its R replicas has
    [B / R, H, W] of every batch.
    """

    def of_part(part, num_parts):
        return _epochs(images, batch_size, seed, first_epoch, part, num_parts).flat_map(lambda batches: batches)

    return _spread(of_part, strategy)


def epoch_batches(images: np.ndarray, *, batch_size: int, seed: int, epoch: tf.Variable) -> tf.data.Dataset:
    """The `training_batches` of one epoch; which one, the variable `epoch` says whenever one begins."""
    one_epoch = _one_epoch(images, batch_size, seed)
    batches = tf.data.Dataset.from_tensors(0).flat_map(lambda _: one_epoch(tf.cast(epoch, tf.int64)))
    num = tf.data.experimental.assert_cardinality(steps_per_epoch(images, batch_size))
    return batches.apply(num).prefetch(tf.data.AUTOTUNE)


def training_launches(
    images: np.ndarray | Records,
    *,
    batch_size: int,
    seed: int,
    steps_per_launch: int,
    first_epoch: int = 0,
    first_launch: int = 0,
) -> tf.data.Dataset:
    """The same batches, K at a time: what `LDIAF.train_step` trains on in one XLA program.

    K is at most `steps_per_launch`, and such that the launches of an epoch are about equal; an epoch's
    last launch may be filled up. Of the first epoch's first `first_launch` launches no batch is to be used.

    Returns:
        a dataset of `launches_per_epoch` elements an epoch: batches [K, B, H, W], and how many of
        them to use.
    """
    num = -(-steps_per_epoch(images, batch_size) // launches_per_epoch(images, batch_size, steps_per_launch))

    def filled_up(batches):
        used = tf.shape(batches)[0]
        padding = tf.scatter_nd([[0, 1]], [num - used], [tf.rank(batches), 2])
        return tf.ensure_shape(tf.pad(batches, padding), [num, *batches.shape[1:]]), used

    epochs = _epochs(images, batch_size, seed, first_epoch)
    launches = epochs.flat_map(lambda batches: batches.batch(num).map(filled_up)).enumerate()
    launches = launches.map(lambda i, launch: (launch[0], tf.where(i < first_launch, 0, launch[1])))
    return launches.prefetch(tf.data.AUTOTUNE)


def _epochs(images, batch_size, seed, first_epoch, part=0, num_parts=1):
    """A dataset of endless epochs, each a dataset of batches, or of one of equal parts of every batch."""
    one_epoch = _one_epoch(images, batch_size, seed, part, num_parts)
    return tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max).map(one_epoch)


def _one_epoch(images, batch_size, seed, part=0, num_parts=1):
    """A function of an epoch's number to its batches."""
    batch, steps = min(batch_size, len(images)), steps_per_epoch(images, batch_size)
    size = batch // num_parts
    pixels = None if isinstance(images, Records) else tf.constant(images)

    def one_epoch(epoch):
        if isinstance(images, Records):
            batches = images.batches(batch, seed, epoch, part, num_parts)
        else:
            epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
            order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=epoch_seed)  # pyright: ignore[reportAttributeAccessIssue]
            rows = tf.reshape(order[: steps * batch], [steps, batch])[:, part * size : (part + 1) * size]
            batches = tf.data.Dataset.from_tensor_slices(rows).map(lambda rows: tf.gather(pixels, rows))
        return batches.map(lambda x: tf.ensure_shape(x, [size, *images.shape[1:]]))

    return one_epoch


def steps_per_epoch(images: np.ndarray | Records, batch_size: int) -> int:
    """Full batches in one pass over `images`."""
    batch = min(batch_size, len(images))
    return images.steps(batch) if isinstance(images, Records) else len(images) // batch


def launches_per_epoch(images: np.ndarray | Records, batch_size: int, steps_per_launch: int) -> int:
    """`training_launches` in one pass over `images`."""
    return -(-steps_per_epoch(images, batch_size) // steps_per_launch)


def evaluation_batches(images: np.ndarray, batch_size: int, strategy=None) -> tf.data.Dataset:
    """Batches (x, x, weight) in order, all of one size: the last is filled up with images of weight 0.

    One size means one compilation, and the weights keep the padding out of every mean. With a `tf.distribute` strategy
    the size is a multiple of its replicas, and each has its part of every batch.
    """
    size = evaluation_batch_size(images, batch_size, strategy)
    padding = -len(images) % size
    padded = np.concatenate([images, np.resize(images, (padding, *images.shape[1:]))])
    weights = np.concatenate([np.ones(len(images), "float32"), np.zeros(padding, "float32")])
    batches = tf.data.Dataset.from_tensor_slices((padded, padded, weights)).batch(size, drop_remainder=True)

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
    if strategy is None or num == 1:
        return of_part(0, 1).prefetch(tf.data.AUTOTUNE)

    def of_this_machine(context):
        here = num // context.num_input_pipelines

        def replicas(*batch):
            split = [tf.reshape(x, [here, x.shape[0] // here, *x.shape[1:]]) for x in batch]
            return tf.data.Dataset.from_tensor_slices(tuple(split) if len(split) > 1 else split[0])

        parts = of_part(context.input_pipeline_id, context.num_input_pipelines)
        return parts.flat_map(replicas).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_this_machine)
