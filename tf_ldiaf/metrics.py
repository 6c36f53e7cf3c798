"""What is averaged over an epoch: the terms of the bound, and how many latent dimensions carry information."""

import keras
import tensorflow as tf


class TermMeans(keras.metrics.Metric):
    """Means over images of several quantities, in one variable. Updated with values [names, B] and weights [B].

    Args:
        names: of the quantities.
    """

    def __init__(self, names, name="term_means"):
        super().__init__(name=name)
        self.names = list(names)
        self.num = self.add_variable((), "zeros", name="num")
        self.sums = self.add_variable((len(self.names),), "zeros", name="sums")

    def update_state(self, values, sample_weight=None):
        weight = tf.ones(tf.shape(values)[1:]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self.num.assign_add(tf.reduce_sum(weight))
        self.sums.assign_add(tf.linalg.matvec(values, weight))

    def result(self):
        """name -> mean."""
        return dict(zip(self.names, tf.unstack(self.sums / self.num), strict=True))

    def state(self) -> list:
        """What `restore` takes: plain numbers, exact."""
        return [float(self.num), self.sums.numpy().tolist()]

    def restore(self, state) -> None:
        """Goes on from a `state`."""
        num, sums = state
        self.num.assign(num)
        self.sums.assign(sums)


class ActiveUnits(keras.metrics.Metric):
    """The number of latent dimensions with Var_x(innovation(x)) > threshold.

    The innovation is the code of `LDIAF.encode` less the prior's loc given the parents' codes. For a
    root it is the posterior mean, as in the source (behind a flow, the code stands for the mean, which
    has no closed form). A dimension that only repeats its parents varies with x and yet carries nothing;
    it does not count. Updated with innovations [B, N, D] and weights [B].

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

    def update_state(self, innovations, sample_weight=None):
        weight = tf.ones(tf.shape(innovations)[:1]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self.num.assign_add(tf.reduce_sum(weight))
        self.sums.assign_add(tf.einsum("bnd,b->nd", innovations, weight))
        self.squares.assign_add(tf.einsum("bnd,b->nd", tf.square(innovations), weight))

    def result(self):
        variance = self.squares / self.num - tf.square(self.sums / self.num)
        return tf.reduce_sum(tf.cast(variance > self.threshold, tf.float32))
