"""The latent graph: its nodes' networks, and how the nodes are visited from the root down."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.layers.flows import InverseAutoregressiveFlow, MaskedAutoregressiveFlow
from tf_ldiaf.layers.gates import Gates
from tf_ldiaf.layers.latent_distributions import LatentPosterior, LatentPrior
from tf_ldiaf.layers.networks import GaussianNetworks, GaussianParameters
from tf_ldiaf.layers.priors import MixturePrior
from tf_ldiaf.probability.noise import standard_normal


@keras.saving.register_keras_serializable("tf_ldiaf")
class LatentGraph(Float32Layer):
    """Nodes z_1 .. z_N of D dimensions each; node N is the root, and z_n may depend on z_{n+1} .. z_N.

    The prior of a node without parents is N(0, I), before a flow. A network's constant in its place could shrink until
    the node says nothing, and it would stay there.

    `prior()` and `posterior(features)` are TFP distributions over [N, D]. A node's children see z_nT, which is behind
    its flow. Called with features [B, F] it gives one draw of the posterior, [B, N, D].

    Args:
        num_nodes: N.
        node_dim: D.
        num_flow_steps: T, steps of each node's flow; 0 for none.
        edges: pairs (parent, child) of node numbers, to fix the graph. None: the gates are learned.
        node_units: hidden widths of each node's top-down and bottom-up network.
        flow_units: hidden widths of each flow step's masked network.
        context_dim: H, what a node's flow is told of the image; in the prior, of the parents.
        root_components: K of the root's `MixturePrior`; 0: p(z_N) is N(0, I).
        initial_gate_prob: see `Gates`.
        prior_flow_steps: steps of each node's flow in the prior; 0 for none.
    """

    def __init__(
        self,
        num_nodes: int,
        node_dim: int,
        num_flow_steps: int = 0,
        edges: Sequence[tuple[int, int]] | None = None,
        node_units: Sequence[int] = (64, 64),
        flow_units: Sequence[int] = (64, 64),
        context_dim: int = 32,
        root_components: int = 0,
        initial_gate_prob: float = 0.5,
        prior_flow_steps: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_nodes, self.node_dim, self.num_flow_steps = num_nodes, node_dim, num_flow_steps
        self.node_units, self.flow_units, self.context_dim = tuple(node_units), tuple(flow_units), context_dim
        self.root_components, self.prior_flow_steps = root_components, prior_flow_steps
        if num_nodes == 1 and edges is None:
            edges = []
        self.gates = Gates(num_nodes, edges, initial_gate_prob, name="gates")
        self.bottom_up = GaussianNetworks(
            num_nodes, node_dim, node_units, context_dim if num_flow_steps else 0, name="bottom_up"
        )
        self.top_down = self.flows = self.prior_flows = self.root = None
        if num_nodes > 1:
            parents = [(num_nodes - 1 - n) * node_dim for n in range(num_nodes - 1)]
            width = context_dim if prior_flow_steps else 0
            self.top_down = GaussianNetworks(num_nodes - 1, node_dim, node_units, width, parents, name="top_down")
        sizes = {"node_dim": node_dim, "context_dim": context_dim, "units": flow_units, "num_nodes": num_nodes}
        if num_flow_steps:
            self.flows = InverseAutoregressiveFlow(num_steps=num_flow_steps, **sizes, name="flows")
        if prior_flow_steps:
            self.prior_flows = MaskedAutoregressiveFlow(num_steps=prior_flow_steps, **sizes, name="prior_flows")
        if root_components:
            self.root = MixturePrior(root_components, node_dim, name="root")

    def build(self, input_shape) -> None:
        if not self.gates.built:
            self.gates.build()
        self.bottom_up.build(input_shape)
        if self.top_down is not None:
            self.top_down.build((None, (self.num_nodes - 1) * self.node_dim))
        for part in (self.flows, self.prior_flows, self.root):
            if part is not None:
                part.build()
        self.built = True

    def call(self, features: tf.Tensor, seed=(0, 0)) -> tf.Tensor:
        return self.posterior(features).sample(seed=seed)

    def get_config(self) -> dict:
        names = [
            "num_nodes",
            "node_dim",
            "num_flow_steps",
            "node_units",
            "flow_units",
            "context_dim",
            "root_components",
            "prior_flow_steps",
        ]
        gates = self.gates.get_config()
        own = {name: getattr(self, name) for name in names}
        return super().get_config() | own | {"edges": gates["edges"], "initial_gate_prob": gates["initial_prob"]}

    def prior(self, adjacency: tf.Tensor | None = None) -> LatentPrior:
        """p(z): batch shape [], event shape [N, D].

        Args:
            adjacency: [N, N], bool, adjacency[child, parent]: which edges of the graph stay open; None: all.
        """
        gates = self.draw_gates()
        if adjacency is not None:
            gates *= _by_child(tf.cast(adjacency, tf.float32)[tf.newaxis, tf.newaxis])
        return LatentPrior(self, gates)

    def posterior(self, features: tf.Tensor, gates: tf.Tensor | None = None) -> LatentPosterior:
        """q(z given x): batch shape [B], event shape [N, D].

        Args:
            features: [B, F], what the encoder says of images.
            gates: what `draw_gates` returns; the most probable graph by default.
        """
        if not self.built:
            self.build(features.shape)
        return LatentPosterior(self, self.bottom_up(features), self.draw_gates() if gates is None else gates)

    def draw_gates(self, shape=(1, 1), temperature: tf.Tensor | None = None, seed=None) -> tf.Tensor:
        """c[n] for each draw and image; the last axis is the parents z_2 .. z_N, because z_1 is nobody's.

        Args:
            shape: [S, B].
            temperature: of relaxed draws, where gates are learned. None: the most probable graph.
            seed: [2], int32, a stateless seed, for relaxed draws.

        Returns:
            gates: [N, S, B, N - 1] relaxed, or [N, 1, 1, N - 1] of 0 and 1.
        """
        if temperature is None or self.gates.fixed is not None:
            gates = self.gates.adjacency()[tf.newaxis, tf.newaxis]
        else:
            gates = self.gates.sample(shape, temperature, seed)
        return _by_child(gates)

    def noise(self, shape, seed, first=(0, 0)) -> tf.Tensor:
        """Standard normal draws for all nodes, [N, S, B, D]; `shape` is [S, B], `first` as in `noise.uniform`."""
        return standard_normal((self.num_nodes, *shape, self.node_dim), seed, first)

    def no_noise(self) -> tf.Tensor:
        """In place of `noise`, [N, 1, 1, D]: every Gaussian is at its loc."""
        return tf.zeros([self.num_nodes, 1, 1, self.node_dim])

    def descend(self, shape, gates: tf.Tensor, visit: Callable, num_parts: int) -> list[tf.Tensor]:
        """Visits the nodes from the root down, in one loop whatever N is.

        Args:
            shape: [S, B].
            gates: what `draw_gates` returns.
            visit: a function of (n, whether n is the root, the `GaussianParameters` of its prior given its parents) to
                `num_parts` tensors whose shapes begin with [S, B]. The first is z_n.
            num_parts: see `visit`.

        Returns:
            each part of what `visit` returned, stacked: [N, S, B, ...].
        """
        num_nodes, node_dim = self.num_nodes, self.node_dim
        top_down = self.top_down.of_one() if self.top_down is not None else None
        zeros = tf.zeros(tf.concat([shape, [node_dim]], axis=0))
        no_context = tf.zeros(tf.concat([shape, [self.context_dim if self.prior_flow_steps else 0]], axis=0))
        alone = GaussianParameters(zeros, zeros + 1.0, no_context)
        has_parents = tf.reduce_any(gates > 0.0, axis=-1, keepdims=True)

        def prior(n, parents):
            if top_down is None:
                return alone
            gated = tf.expand_dims(gates[n], -1) * parents
            width = (num_nodes - 1) * node_dim
            gated = tf.reshape(gated, tf.concat([tf.shape(gated)[:-2], [width]], axis=0))
            # The root has no network; what another's would give for it is not used.
            given = top_down(tf.minimum(n, num_nodes - 2), gated)
            return GaussianParameters(*(tf.where(has_parents[n], *pair) for pair in zip(given, alone, strict=True)))

        def body(n, parents, *arrays):
            is_root = tf.equal(n, num_nodes - 1) if top_down is not None else True
            kept = visit(n, is_root, prior(n, parents))
            place = tf.one_hot(n - 1, num_nodes - 1)[:, tf.newaxis]  # of z_n among z_2 .. z_N; nowhere for z_1
            arrays = [array.write(n, part) for array, part in zip(arrays, kept, strict=True)]
            return n - 1, parents + kept[0][..., tf.newaxis, :] * place, *arrays

        arrays = [tf.TensorArray(tf.float32, num_nodes) for _ in range(num_parts)]
        none_yet = tf.zeros(tf.concat([shape, [num_nodes - 1, node_dim]], axis=0))
        loop_vars = (num_nodes - 1, none_yet, *arrays)
        _, _, *arrays = tf.while_loop(lambda n, *_: n >= 0, body, loop_vars, maximum_iterations=num_nodes)
        return [array.stack() for array in arrays]


def _by_child(gates):
    """[S, B, N, N] as [N, S, B, N - 1]: without the parent z_1, who is nobody's."""
    return tf.transpose(gates[:, :, :, 1:], [2, 0, 1, 3])
