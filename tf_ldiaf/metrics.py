"""Active units: how many latent dimensions carry information about the image."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tf_ldiaf")
class ActiveUnits(keras.metrics.Metric):
    """The number of latent dimensions with Var_x(code(x)) > threshold.

    The code, `LDIAF.encode`, stands for the posterior mean, which has no closed form behind a flow;
    without a flow and with one node it is the posterior mean. Updated with codes [B, N, D] and
    weights [B].

    Args:
        shape: (N, D).
        threshold: variance over images above which a dimension counts.

    Source: Burda et al. 2016, arXiv 1509.00519, section 5.1.
    """

    def __init__(self, shape, threshold=0.01, name="active_units"):
        super().__init__(name=name)
        self.threshold = threshold
        self.num = self.add_variable((), "zeros", name="num")
        self.sums = self.add_variable(tuple(shape), "zeros", name="sums")
        self.squares = self.add_variable(tuple(shape), "zeros", name="squares")

    def update_state(self, codes, sample_weight=None):
        weight = tf.ones(tf.shape(codes)[:1]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self.num.assign_add(tf.reduce_sum(weight))
        self.sums.assign_add(tf.einsum("bnd,b->nd", codes, weight))
        self.squares.assign_add(tf.einsum("bnd,b->nd", tf.square(codes), weight))

    def result(self):
        variance = self.squares / self.num - tf.square(self.sums / self.num)
        return tf.reduce_sum(tf.cast(variance > self.threshold, tf.float32))
