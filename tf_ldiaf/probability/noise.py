"""Random numbers from a counter: the same with XLA and without it.

TensorFlow's own stateless draws take ten times as long in XLA on a CPU, and are others there.
"""

import math
import typing
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: Sequence[tf.Tensor], counter: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The Threefry-2x32 block function with 20 rounds.

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors, of shapes that broadcast.

    Returns:
        two uint32 tensors of their common shape, as good as random.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3, section 3.3.
    """
    first, second = key
    keys = (
        first,
        second,
        tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(first, second), tf.constant(_PARITY, tf.uint32)),
    )
    a, b = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            a = a + b
            left = tf.bitwise.left_shift(b, tf.constant(rotation, tf.uint32))
            right = tf.bitwise.right_shift(b, tf.constant(32 - rotation, tf.uint32))
            b = tf.bitwise.bitwise_xor(a, tf.bitwise.bitwise_or(left, right))
        a, b = a + keys[(block + 1) % 3], b + keys[(block + 2) % 3] + tf.constant(block + 1, tf.uint32)
    return a, b


def uniform(shape: Sequence, seed, first: Sequence = (0, 0)) -> tf.Tensor:
    """Independent draws between 0 and 1: each odd multiple of 2^-24 is as likely as the next.

    A draw is a function of the seed and of its own place: it is the same however many samples are drawn at a time, and
    however images are spread over batches and replicas.

    Args:
        shape: [N, S, B, K], a sequence of ints or int32 scalars: nodes, samples, images, and draws for each.
        seed: [2], int32, a stateless seed.
        first: the place of the first sample among all samples, and of the first image among all images. Within a
            `tf.distribute` replica, that of the first image of all replicas, each of which has B.

    Returns:
        float32 tensor of that shape, never 0 and never 1.
    """
    num_nodes, num_samples, num_images, num = shape
    first_sample, first_image = first
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        first_image += context.replica_id_in_sync_group * num_images
    samples = first_sample + tf.range(num_samples)[:, tf.newaxis, tf.newaxis]
    nodes = tf.range(num_nodes)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    counter = (samples * num_nodes + nodes) * num + tf.range(num), (first_image + tf.range(num_images))[:, tf.newaxis]
    key = tf.unstack(tf.bitcast(tf.convert_to_tensor(seed, tf.int32), tf.uint32))
    bits, _ = threefry(key, [tf.bitcast(word, tf.uint32) for word in counter])  # half of them: both are no faster
    return (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32) + 0.5) * 2.0**-23


def standard_normal(shape: Sequence, seed, first: Sequence = (0, 0)) -> tf.Tensor:
    """Independent draws from N(0, 1), float32, from those of `uniform`: none is beyond 5.5."""
    return math.sqrt(2.0) * tf.math.erfinv(2.0 * uniform(shape, seed, first) - 1.0)


def seed_number(seed: typing.Any) -> typing.Any:
    """A seed that is one number, as an int or a scalar int32 tensor.

    Raises:
        ValueError: it is none of 32 bits.
    """
    if tf.is_tensor(seed):
        if isinstance(seed, tf.Tensor) and hasattr(seed, "numpy"):
            return seed_number(seed.numpy()[()])
        if not seed.dtype.is_integer:
            raise ValueError(f"seed must be a whole number of 32 bits. Received: a tensor of {seed.dtype.name}.")
        return tf.cast(seed, tf.int32)
    if not isinstance(seed, int | np.integer) or not -(2**31) <= seed < 2**31:
        raise ValueError(f"seed must be a whole number of 32 bits. Received: {seed}.")
    return int(seed)


def stateless_seed(seed: typing.Any) -> tf.Tensor:
    """A stateless seed [2], int32, of what `tfd.Distribution.sample` takes: None for any, an int, or such a seed."""
    if isinstance(seed, int | np.integer):
        return tf.constant([0, seed_number(seed)])
    return tfp.random.sanitize_seed(seed)
