"""The latent graph: prior and posterior of its nodes, and how they are visited."""

import typing

import keras
import tensorflow as tf

from tf_ldiaf.config import Config
from tf_ldiaf.layers.flows import InverseAutoregressiveFlows, run_chain
from tf_ldiaf.layers.gates import Gates, adjacency_of
from tf_ldiaf.layers.networks import GaussianNetworks
from tf_ldiaf.layers.stacked import at
from tf_ldiaf.probability.gaussians import Mixture, fuse, log_normal
from tf_ldiaf.probability.noise import standard_normal


class Draw(typing.NamedTuple):
    """S draws of z from the posterior of B images."""

    z: tf.Tensor  # [S, B, N, D], z_T
    innovation: tf.Tensor  # [S, B, N, D], z_T less the prior's loc given the parents
    log_prior: tf.Tensor  # [S, B, N], nats
    log_posterior: tf.Tensor  # [S, B, N], nats


class LatentGraph(keras.layers.Layer):
    """Nodes z_1 .. z_N of D dimensions each; node N is the root, and z_n may depend on z_{n+1} .. z_N.

        Eq. prior   p(z given c) = p(z_N) prod_n N(z_n; loc^_n, scale^_n), from MLP_TD_n(concat_j c[n,j] z_j)

    p(z_N) is N(0, I), or the `Mixture` of Eq. root if the config has components.

    The posterior of a node has (loc_n, scale_n) from Eq. fusion and z_nT from Eq. iaf, with the log-probability of
    Eq. density. z_nT is what the node's children see.

    Args:
        config: a `Config`.
        adjacency: [N, N] to fix the gates, or None: they are learned, or those of the config.
    """

    def __init__(self, config: Config, adjacency=None, **kwargs):
        super().__init__(**kwargs)
        self.num_nodes, self.node_dim = num_nodes, node_dim = config.num_nodes, config.node_dim
        if adjacency is None and config.fixed_edges is not None:
            adjacency = adjacency_of(num_nodes, config.fixed_edges)
        self.gates = Gates(num_nodes, config.initial_gate_prob, adjacency, name="gates")
        self.bottom_up = GaussianNetworks(
            [config.encoder_units[-1]] * num_nodes,
            node_dim,
            config.node_units,
            config.context_dim if config.num_flow_steps else 0,
            name="bottom_up",
        )
        self.top_down = self.flows = self.root = None
        if config.root_components:
            self.root = Mixture(config.root_components, node_dim, name="root")
        if num_nodes > 1:
            parents = [(num_nodes - 1 - n) * node_dim for n in range(num_nodes - 1)]
            self.top_down = GaussianNetworks(parents, node_dim, config.node_units, name="top_down")
        if config.num_flow_steps:
            self.flows = InverseAutoregressiveFlows(
                num_nodes, node_dim, config.num_flow_steps, config.flow_units, config.context_dim, name="flows"
            )

    def build(self, input_shape=None):
        for part in (self.gates, self.bottom_up, self.top_down, self.flows, self.root):
            if part is not None:
                part.build()
        self.built = True

    def infer(self, features):
        """What the features [B, F] of images say of each node: `GaussianParameters`, [N, B, ...]."""
        return self.bottom_up.of_all(features)

    def draw_gates(self, shape, temperature=None, seed=None):
        """c[n] for each draw and image; the last axis is the parents z_2 .. z_N, because z_1 is nobody's.

        Args:
            shape: [S, B].
            temperature: of relaxed draws, where gates are learned. None: the most probable graph.
            seed: [2], int32, a stateless seed, for relaxed draws.

        Returns:
            gates: [N, S, B, N - 1] relaxed, or [N, 1, 1, N - 1] of 0 and 1.
        """
        if temperature is not None and self.gates.fixed is None:
            gates: typing.Any = self.gates.sample(shape, temperature, seed)
        else:
            gates = self.gates.adjacency()[tf.newaxis, tf.newaxis]
        return tf.transpose(gates[..., 1:], [2, 0, 1, 3])

    def noise(self, shape, seed, first=(0, 0)):
        """Standard normal draws for all nodes, [N, S, B, D]; `shape` is [S, B], `first` as in `noise.uniform`."""
        return standard_normal((self.num_nodes, *shape, self.node_dim), seed, first)

    def posterior(self, bottom_up, gates, noise):
        """Draws z from the posterior: Eq. fusion, Eq. iaf and Eq. density in each node.

        Args:
            bottom_up: what `infer` returns.
            gates: what `draw_gates` returns.
            noise: what `noise` returns; or zeros [N, 1, 1, 1], and every Gaussian is at its loc.

        Returns:
            a `Draw`.
        """
        chain = self.flows.of_one(bottom_up.context) if self.flows is not None else lambda n: []

        def draw(n, is_root, prior_loc, prior_scale):
            own = at(bottom_up.loc, n), at(bottom_up.scale, n)
            fused = fuse((prior_loc, prior_scale), own)
            loc, scale = (tf.where(is_root, *pair) for pair in zip(own, fused, strict=True))
            z, log_s = run_chain(chain(n), loc + scale * at(noise, n))
            return z, z - prior_loc, prior_scale, scale, log_s

        shape = tf.concat([tf.shape(noise)[1:2], tf.shape(bottom_up.loc)[1:2]], axis=0)
        # The densities of all nodes at once: many small operations fewer than in the loop.
        z, innovation, prior_scale, scale, log_s = self._descend(shape, gates, draw, num_parts=5)
        log_prior = log_normal(innovation / prior_scale, prior_scale)
        if self.root is not None:
            log_prior = tf.concat([log_prior[:-1], self.root.log_prob(z[-1:])], axis=0)
        log_posterior = log_normal(noise, scale) - tf.reduce_sum(log_s, axis=-1)
        # From [N, S, B, ...] to [S, B, N, ...].
        parts = z, innovation, log_prior, log_posterior
        return Draw(*(tf.transpose(part, [1, 2, 0, *range(3, len(part.shape))]) for part in parts))

    def prior(self, gates, noise, seed):
        """Draws z from the prior, [S, B, N, D].

        Args:
            gates, noise: as for `posterior`.
            seed: [2], int32, a stateless seed, for what is not normal in it.
        """
        root = noise[-1] if self.root is None else self.root.sample(noise[-1], seed)

        def draw(n, is_root, loc, scale):
            return [tf.where(is_root, root, loc + scale * noise[n])]

        [z] = self._descend(tf.shape(noise)[1:3], gates, draw, num_parts=1)
        return tf.transpose(z, [1, 2, 0, 3])

    def _descend(self, shape, gates, draw, num_parts):
        """Visits the nodes from the root down, in one loop whatever N is.

        Args:
            shape: [S, B].
            gates: what `draw_gates` returns.
            draw: a function of (n, whether n is the root, loc and scale of its prior) to `num_parts` tensors
                [S, B, D], of which z_n is the first.
            num_parts: see `draw`.

        Returns:
            each part of what `draw` returned, stacked: [N, S, B, D].
        """
        num_nodes, node_dim = self.num_nodes, self.node_dim
        top_down = self.top_down.of_one() if self.top_down is not None else None
        zeros = tf.zeros(tf.concat([shape, [node_dim]], axis=0))

        def visit(n, parents):
            if top_down is None:
                return draw(n, True, zeros, zeros + 1.0)
            is_root = tf.equal(n, num_nodes - 1)
            # The root has no network; what another's would give for it is not used.
            loc, scale = self._prior_of(top_down, tf.minimum(n, num_nodes - 2), at(gates, n), parents)
            return draw(n, is_root, tf.where(is_root, 0.0, loc), tf.where(is_root, 1.0, scale))

        def body(n, parents, *arrays):
            kept = visit(n, parents)
            place = tf.one_hot(n - 1, num_nodes - 1)[:, tf.newaxis]  # of z_n among z_2 .. z_N; nowhere for z_1
            arrays = [array.write(n, part) for array, part in zip(arrays, kept, strict=True)]
            return n - 1, parents + kept[0][..., tf.newaxis, :] * place, *arrays

        arrays = [tf.TensorArray(tf.float32, num_nodes) for _ in range(num_parts)]
        none_yet = tf.zeros(tf.concat([shape, [num_nodes - 1, node_dim]], axis=0))
        loop_vars = (num_nodes - 1, none_yet, *arrays)
        _, _, *arrays = tf.while_loop(lambda n, *_: n >= 0, body, loop_vars, maximum_iterations=num_nodes)
        return [array.stack() for array in arrays]

    def _prior_of(self, top_down, n, gates, parents):
        """Eq. prior: loc and scale of z_n given z_2 .. z_N [S, B, N - 1, D] and their gates [S or 1, B or 1, N - 1]."""
        gated = gates[..., tf.newaxis] * parents
        width = gated.shape[-2] * gated.shape[-1]
        loc, scale, _ = top_down(n, tf.reshape(gated, tf.concat([tf.shape(gated)[:-2], [width]], axis=0)))
        return loc, scale
