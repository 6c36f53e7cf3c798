"""What is averaged over an epoch: the terms of the bound, and how many latent dimensions carry information."""

import keras
import tensorflow as tf


def summed(*variables: keras.Variable) -> list[tf.Tensor]:
    """The values of a metric's variables, summed over replicas whoever reads them."""
    context, values = tf.distribute.get_replica_context(), [tf.convert_to_tensor(v) for v in variables]
    if context is None or context.num_replicas_in_sync == 1:
        return values
    values = [tf.identity(value) for value in values]  # tensors that know their device
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


class TermMeans(keras.metrics.Metric):
    """Means over images of several quantities, in one variable. Updated with values [names, B] and weights [B].

    Args:
        names: of the quantities.
    """

    def __init__(self, names, name="term_means"):
        super().__init__(dtype="float32", name=name)
        self.names = list(names)
        self.num = self.add_variable((), "zeros", "float32", name="num")
        self.sums = self.add_variable((len(self.names),), "zeros", "float32", name="sums")

    def update_state(self, values, sample_weight=None) -> None:
        weight = tf.ones(tf.shape(values)[1:]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self.num.assign_add(tf.reduce_sum(weight))
        self.sums.assign_add(tf.linalg.matvec(values, weight))

    def result(self) -> dict[str, tf.Tensor]:
        """name -> mean."""
        sums, num = summed(self.sums, self.num)
        return dict(zip(self.names, tf.unstack(sums / num), strict=True))


class Total(keras.metrics.Metric):
    """A sum over steps and replicas."""

    def __init__(self, name):
        super().__init__(dtype="float32", name=name)
        self.total = self.add_variable((), "zeros", "float32", name="total")

    def update_state(self, value) -> None:
        self.total.assign_add(tf.cast(value, tf.float32))

    def result(self) -> tf.Tensor:
        [total] = summed(self.total)
        return total


class NonFiniteSteps(keras.metrics.Metric):
    """How many training steps had a term that was infinite or not a number, and which were the first one's.

    Args:
        names: of the terms.
    """

    def __init__(self, names, name="nonfinite_steps"):
        super().__init__(dtype="float32", name=name)
        self.names = list(names)
        self.num = self.add_variable((), "zeros", "float32", name="num")
        self.first = self.add_variable((), "zeros", dtype="int32", name="first")
        self.terms = self.add_variable((len(self.names),), "zeros", "float32", name="terms")

    def update_state(self, is_bad, step) -> None:
        """Takes which terms [names] of a step, counted from 0, were not finite. Only the first replica counts them."""
        context = tf.distribute.get_replica_context()
        is_bad = tf.logical_and(is_bad, tf.equal(context.replica_id_in_sync_group, 0))
        is_any_bad = tf.reduce_any(is_bad)
        is_first = tf.logical_and(is_any_bad, tf.equal(self.num.value, 0.0))
        self.first.assign(tf.where(is_first, step + 1, self.first.value))
        self.terms.assign(tf.where(is_first, tf.cast(is_bad, tf.float32), self.terms.value))
        self.num.assign_add(tf.cast(is_any_bad, tf.float32))

    def result(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.num)

    def first_terms(self) -> tuple[int, list[str]] | None:
        """(step, counted from 1, and the names of its terms that were not finite), or None."""
        first = int(self.first.numpy())
        if not first:
            return None
        return first, [name for name, bad in zip(self.names, self.terms.numpy(), strict=True) if bad]


class ActiveUnits(keras.metrics.Metric):
    """The number of latent dimensions with Var_x(innovation(x)) > threshold.

    The innovation is the code of `LDIAF.encode` less the prior's loc given the parents' codes (see `Draw`). For a
    root it is the posterior mean, as in the source (behind a flow, the code stands for the mean, which
    has no closed form). A dimension that only repeats its parents varies with x and yet carries nothing;
    it does not count. Updated with innovations [B, N, D] and weights [B].

    Args:
        shape: (N, D).
        threshold: variance over images above which a dimension counts.

    Source: Burda et al. 2016, arXiv 1509.00519, section 5.1.
    """

    def __init__(self, shape, threshold=0.01, name="active_units"):
        super().__init__(dtype="float32", name=name)
        self.threshold = threshold
        self.num = self.add_variable((), "zeros", "float32", name="num")
        self.sums = self.add_variable(tuple(shape), "zeros", "float32", name="sums")
        self.squares = self.add_variable(tuple(shape), "zeros", "float32", name="squares")

    def update_state(self, innovations, sample_weight=None) -> None:
        weight = tf.ones(tf.shape(innovations)[:1]) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self.num.assign_add(tf.reduce_sum(weight))
        self.sums.assign_add(tf.einsum("bnd,b->nd", innovations, weight))
        self.squares.assign_add(tf.einsum("bnd,b->nd", tf.square(innovations), weight))

    def result(self) -> tf.Tensor:
        squares, sums, num = summed(self.squares, self.sums, self.num)
        variance = squares / num - tf.square(sums / num)
        return tf.reduce_sum(tf.cast(variance > self.threshold, tf.float32))
