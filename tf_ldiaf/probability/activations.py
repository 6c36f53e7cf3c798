"""ELU and softplus without expm1 and log1p, which XLA on a CPU does not vectorise.

TensorFlow's own make a log-likelihood of many samples a tenth slower; `python -m benchmarks.primitives` times both.
"""

import typing

import keras
import tensorflow as tf

from tf_ldiaf.probability.gradients import custom_gradient


@keras.saving.register_keras_serializable("tf_ldiaf")
def elu(x: tf.Tensor) -> tf.Tensor:
    """ELU. It differs from tf.nn.elu, which has an expm1, by 1e-7 at most.

    Its derivative is written with its value: one array to keep for the backward pass in place of four.
    """
    return _elu(x)


@custom_gradient
def _elu(x) -> typing.Any:
    y = tf.where(x > 0.0, x, tf.exp(tf.minimum(x, 0.0)) - 1.0)
    return y, lambda upstream: upstream * (1.0 + tf.minimum(y, 0.0))


@custom_gradient
def softplus(x: tf.Tensor) -> typing.Any:
    """log(1 + exp(x)), for any x. It differs from tf.nn.softplus by 5e-7 at most.

    max(x, 0) + log(1 + t), t = exp(-|x|), from the series log(1 + t) = 2 artanh(u), u = t / (2 + t) <= 1/3.
    """
    tail = tf.exp(-tf.abs(x))
    u = tail / (2.0 + tail)
    series = 0.0
    for power in (13, 11, 9, 7, 5, 3, 1):
        series = series * (u * u) + 1.0 / power
    return tf.maximum(x, 0.0) + 2.0 * u * series, lambda upstream: upstream * tf.sigmoid(x)
