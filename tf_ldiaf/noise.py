"""Random numbers from a counter: the same with XLA and without it.

TensorFlow's own stateless draws take ten times as long in XLA on a CPU, and are others there.
"""

import math

import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key, counter):
    """The Threefry-2x32 block function with 20 rounds.

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors, of one shape.

    Returns:
        two uint32 tensors of that shape, as good as random.

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


def uniform(shape, seed):
    """Independent draws between 0 and 1: each odd multiple of 2^-24 is as likely as the next.

    Args:
        shape: of the result.
        seed: [2], int32, a stateless seed.

    Returns:
        float32 tensor of that shape, never 0 and never 1.
    """
    num = tf.reduce_prod(shape)
    counter = tf.bitcast(tf.range((num + 1) // 2), tf.uint32)
    key = tf.unstack(tf.bitcast(tf.convert_to_tensor(seed, tf.int32), tf.uint32))
    bits = tf.concat(threefry(key, (counter, tf.zeros_like(counter))), axis=0)[:num]
    mantissa = tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32)
    return tf.reshape((mantissa + 0.5) * 2.0**-23, shape)


def standard_normal(shape, seed):
    """Independent draws from N(0, 1), float32, from those of `uniform`: none is beyond 5.5."""
    return math.sqrt(2.0) * tf.math.erfinv(2.0 * uniform(shape, seed) - 1.0)


def of_replica(draw, shape, axis):
    """`draw(shape)`; where a batch is spread over replicas, this replica's part of what one device would draw.

    Every replica draws for the whole batch and keeps its own, so that an image's draws do not depend on how many
    replicas there are.

    Args:
        draw: a function of a shape to a tensor whose first axes have that shape.
        shape: [k], of this replica's part.
        axis: the one of `shape` that counts images, of which each replica has as many.

    Returns:
        `draw`'s tensor with `shape`.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return draw(shape)
    own = shape[axis]
    whole = draw(tf.concat([shape[:axis], [own * context.num_replicas_in_sync], shape[axis + 1 :]], axis=0))
    return tf.gather(whole, context.replica_id_in_sync_group * own + tf.range(own), axis=axis)


def bernoulli(grey, seed):
    """A draw of 0 or 1 for each pixel: 1 with a probability of its grey.

    Args:
        grey: [B, ...], uint8 in 0-255, or float in 0-1.
        seed: [2], int32, a stateless seed.

    Returns:
        float32 tensor of that shape.
    """
    scale = 255.0 if grey.dtype == tf.uint8 else 1.0
    draws = of_replica(lambda shape: uniform(shape, seed), tf.shape(grey), axis=0)
    return tf.cast(draws < tf.cast(grey, tf.float32) / scale, tf.float32)
