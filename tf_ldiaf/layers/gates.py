"""Eq. gate: which latent node may depend on which."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.probability.noise import uniform

# Gate logits move as many times as fast as weights: at the weights' rate, gates are undecided after 700 steps.
_RATE = 5.0
# They stay within this of 0, probabilities between about 0.05 and 0.95: what seemed decided can still be reversed.
_LARGEST_LOGIT = 3.0


def all_gates_open(num_nodes: int) -> np.ndarray:
    """The full graph: every node depends on all nodes after it.

    Returns:
        adjacency: [N, N], 1 where adjacency[child, parent] with parent > child, else 0.
    """
    return np.triu(np.ones((num_nodes, num_nodes), "float32"), k=1)


def adjacency_of(num_nodes: int, edges) -> np.ndarray:
    """The graph of given edges.

    Args:
        num_nodes: N.
        edges: pairs (parent, child) of node numbers in 1 .. N.

    Returns:
        adjacency: [N, N] of 0 and 1, adjacency[child, parent].
    """
    adjacency = np.zeros((num_nodes, num_nodes), "float32")
    for parent, child in edges:
        adjacency[child - 1, parent - 1] = 1
    return adjacency


def most_probable_graph(gate_probs):
    """adjacency from gate_probs, both [N, N]: open where open is at least as probable as shut."""
    gate_probs = tf.convert_to_tensor(gate_probs, tf.float32)
    num_nodes: Any = gate_probs.shape[0]
    return all_gates_open(num_nodes) * tf.cast(gate_probs >= 0.5, tf.float32)


@keras.saving.register_keras_serializable("tf_ldiaf")
class Gates(keras.layers.Layer):
    """Eq. gate: c[n, j] ~ Bernoulli(gate_probs[n, j]) for j > n, with gate_probs = sigmoid(gate_logits).

    While learning, c is relaxed to the Concrete distribution at temperature tau,
    c = sigmoid((gate_logits + L) / tau) with L a standard logistic draw, so that gradients
    reach the logits. Evaluated, or with a fixed `adjacency`, c is 0 or 1.

    Args:
        num_nodes: N.
        initial_prob: gate probability before learning, in [0.05, 0.95]. High, because a gate that opens and shuts
            makes its node's prior noisy; the node collapses, and edges of a node that says nothing are worth nothing.
        adjacency: [N, N] of 0 and 1, strictly upper triangular, to fix the gates; None to learn them.

    Raises:
        ValueError: an adjacency of another shape, with other values, or with a parent that is not after its child.

    Source: He et al. 2019 (VAEs with jointly optimized latent dependency structure), Eq. 6; the relaxation
        is Maddison et al. 2017, arXiv 1611.00712.
    """

    def __init__(self, num_nodes, initial_prob, adjacency=None, **kwargs):
        super().__init__(**kwargs)
        self.num_nodes = num_nodes
        self.initial_prob = initial_prob
        self.possible = all_gates_open(num_nodes)
        self.fixed = None if adjacency is None else self._checked(np.asarray(adjacency, "float32"))

    def _checked(self, adjacency):
        expected = f"a {self.num_nodes} x {self.num_nodes} matrix of 0 and 1 with ones above the diagonal only"
        if adjacency.shape != self.possible.shape:
            raise ValueError(f"adjacency must be {expected}. Received shape: {adjacency.shape}.")
        if not np.isin(adjacency, (0, 1)).all() or (adjacency > self.possible).any():
            raise ValueError(f"adjacency must be {expected}. Received: {adjacency.tolist()}.")
        return adjacency

    def build(self, input_shape=None):
        if self.fixed is None:
            start = np.log(self.initial_prob) - np.log1p(-self.initial_prob)
            bound = _LARGEST_LOGIT / _RATE
            self.scaled_logits = self.add_weight(
                name="scaled_logits",
                shape=self.possible.shape,
                initializer=keras.initializers.Constant(start / _RATE),
                constraint=lambda scaled_logits: keras.ops.clip(scaled_logits, -bound, bound),
            )
        self.built = True

    @property
    def gate_logits(self):
        """[N, N]; of the gates that can be, those above the diagonal."""
        return _RATE * tf.convert_to_tensor(self.scaled_logits)

    def probs(self):
        """gate_probs: [N, N], 0 where no gate can be; the adjacency itself once it is fixed."""
        if self.fixed is not None:
            return tf.constant(self.fixed)
        return tf.constant(self.possible) * tf.sigmoid(self.gate_logits)

    def adjacency(self):
        """The most probable graph: [N, N] of 0 and 1, see `most_probable_graph`."""
        return most_probable_graph(self.probs())

    def sample(self, shape, temperature, seed):
        """Relaxed gates.

        Args:
            shape: [S, B], of samples and images, each of which has its own.
            temperature: tau > 0, scalar.
            seed: [2], int32, a stateless seed.

        Returns:
            gates: [S, B, N, N] in [0, 1].
        """
        # Not tfd.RelaxedBernoulli: the gradient of its draws overflows at low temperature.
        draws = tf.reshape(uniform((1, *shape, self.possible.size), seed), (*shape, *self.possible.shape))
        logistic = tf.math.log(draws) - tf.math.log1p(-draws)
        relaxed = tf.sigmoid((self.gate_logits + logistic) / temperature)
        return tf.constant(self.possible) * relaxed

    def get_config(self):
        fixed = None if self.fixed is None else self.fixed.tolist()
        return super().get_config() | {
            "num_nodes": self.num_nodes,
            "initial_prob": self.initial_prob,
            "adjacency": fixed,
        }
