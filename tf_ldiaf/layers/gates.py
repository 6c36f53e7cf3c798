"""Eq. gate: which latent node may depend on which."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer
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


def adjacency_of(num_nodes: int, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """The graph of given edges.

    Args:
        num_nodes: N.
        edges: pairs (parent, child) of node numbers, with N >= parent > child >= 1.

    Returns:
        adjacency: [N, N] of 0 and 1, adjacency[child, parent].

    Raises:
        ValueError: something else than such pairs.
    """
    adjacency = np.zeros((num_nodes, num_nodes), "float32")
    for edge in edges:
        is_pair = np.shape(edge) == (2,) and all(isinstance(node, (int, np.integer)) for node in edge)
        parent, child = edge if is_pair else (0, 0)
        if not num_nodes >= parent > child >= 1:
            raise ValueError(
                f"edges must be pairs (parent, child) of node numbers with {num_nodes} >= parent > child >= 1. "
                f"Received: {edge}."
            )
        adjacency[child - 1, parent - 1] = 1
    return adjacency


def edges_of(adjacency: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (parent, child) of a graph; the inverse of `adjacency_of`."""
    return [(int(parent) + 1, int(child) + 1) for child, parent in np.argwhere(np.asarray(adjacency) > 0)]


def most_probable_graph(gate_probs) -> np.ndarray:
    """adjacency from gate_probs, both [N, N]: open where open is at least as probable as shut."""
    gate_probs = np.asarray(gate_probs)
    return all_gates_open(len(gate_probs)) * (gate_probs >= 0.5).astype("float32")


@keras.saving.register_keras_serializable("tf_ldiaf")
class Gates(Float32Layer):
    """Eq. gate: c[n, j] ~ Bernoulli(gate_probs[n, j]) for j > n, with gate_probs = sigmoid(gate_logits).

    While learning, c is relaxed to the Concrete distribution at temperature tau,
    c = sigmoid((gate_logits + L) / tau) with L a standard logistic draw, so that gradients
    reach the logits. Evaluated, or with a fixed `adjacency`, c is 0 or 1.

    Args:
        num_nodes: N.
        edges: pairs (parent, child) of node numbers, to fix the gates; None to learn them.
        initial_prob: gate probability before learning, in [0.05, 0.95].

    Raises:
        ValueError: edges that are no such pairs, see `adjacency_of`.

    Source: He et al. 2019 (VAEs with jointly optimized latent dependency structure), Eq. 6; the relaxation
    is Maddison et al. 2017, arXiv 1611.00712.
    """

    def __init__(
        self, num_nodes: int, edges: Sequence[tuple[int, int]] | None = None, initial_prob: float = 0.5, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_nodes, self.initial_prob = num_nodes, initial_prob
        self.possible = all_gates_open(num_nodes)
        self.fixed = None if edges is None else adjacency_of(num_nodes, edges)

    def build(self, input_shape=None) -> None:
        if self.fixed is None:
            start = np.log(self.initial_prob) - np.log1p(-self.initial_prob)
            bound = _LARGEST_LOGIT / _RATE
            self.scaled_logits = self.add_weight(
                name="scaled_logits",
                shape=self.possible.shape,
                initializer=keras.initializers.Constant(start / _RATE),
                constraint=lambda scaled_logits: keras.ops.clip(scaled_logits, -bound, bound),
            )
            # One of the weights: gates that are shut stay shut in a copy.
            self.open = self.add_weight(
                name="open", shape=self.possible.shape, initializer=lambda *_, **__: self.possible, trainable=False
            )
        else:
            # A variable: `structure` tries other graphs without compiling a model anew. It is none of the weights that
            # Keras copies: which edges there are is in the layer's config.
            with tf.init_scope():
                object.__setattr__(self, "open", tf.Variable(tf.constant(self.fixed), trainable=False, name="open"))
        self.built = True

    def fix(self, edges: Sequence[tuple[int, int]]) -> None:
        """Other edges of gates that are fixed. Compiled programs go on with them.

        Raises:
            ValueError: the gates are learned; or edges that are no pairs (parent, child), see `adjacency_of`.
        """
        if self.fixed is None:
            raise ValueError("edges must be those of gates that are fixed. Received: gates that are learned.")
        self.fixed = adjacency_of(self.num_nodes, edges)
        if not self.built:
            self.build()
        self.open.assign(self.fixed)

    def shut(self, are_shut: bool) -> None:
        """Shuts all gates that are learned, whatever their logits are; or opens them again as far as these say."""
        if not self.built:
            self.build()
        self.open.assign(self.possible * (not are_shut))

    def get_config(self) -> dict:
        edges = None if self.fixed is None else edges_of(self.fixed)
        return super().get_config() | {"num_nodes": self.num_nodes, "edges": edges, "initial_prob": self.initial_prob}

    @property
    def gate_logits(self) -> tf.Tensor:
        """[N, N]; of the gates that can be, those above the diagonal."""
        if not self.built:
            self.build()
        return _RATE * tf.convert_to_tensor(self.scaled_logits)

    def probs(self) -> tf.Tensor:
        """gate_probs: [N, N], 0 where no gate can be or all are shut; the adjacency itself once it is fixed."""
        if not self.built:
            self.build()
        can_be_open = tf.convert_to_tensor(self.open)
        return can_be_open if self.fixed is not None else can_be_open * tf.sigmoid(self.gate_logits)

    def adjacency(self) -> tf.Tensor:
        """The most probable graph: [N, N] of 0 and 1, open where open is at least as probable as shut."""
        return tf.constant(self.possible) * tf.cast(self.probs() >= 0.5, tf.float32)

    def sample(self, shape: Sequence[int | tf.Tensor], temperature: float | tf.Tensor, seed) -> tf.Tensor:
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
        return tf.convert_to_tensor(self.open) * relaxed
