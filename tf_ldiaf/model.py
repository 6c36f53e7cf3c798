"""LDIAF: the generative model p(x, z), its posterior q(z given x), and how both are trained and used."""

import typing

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf import schedules
from tf_ldiaf.bounds import Terms
from tf_ldiaf.config import Config
from tf_ldiaf.flows import InverseAutoregressiveFlow
from tf_ldiaf.gates import Gates, all_gates_open
from tf_ldiaf.metrics import ActiveUnits
from tf_ldiaf.networks import GaussianNetwork, GaussianParameters, mlp

tfd = tfp.distributions

# Importance samples are drawn so many rows (samples x images) at a time: memory does not grow with S.
_ROWS_PER_PASS = 2048


def fuse(top_down, bottom_up):
    """Eq. fusion: the product of two Gaussians, each (loc, scale): precisions add.

    Returns:
        (loc, scale) of the normalised product, of the shape of the arguments.

    Source: He et al. 2019, Eq. 7; Sonderby et al. 2016, arXiv 1602.02282, Eq. 17-18.
    """
    (prior_loc, prior_scale), (loc, scale) = top_down, bottom_up
    # Ratios of scales, not precisions: nothing overflows however small a scale is.
    total = tf.sqrt(tf.square(prior_scale) + tf.square(scale))
    weight = tf.square(prior_scale / total)
    return weight * loc + (1.0 - weight) * prior_loc, scale * (prior_scale / total)


@keras.saving.register_keras_serializable("tf_ldiaf")
class LDIAF(keras.Model):
    """Variational autoencoder with a learned latent graph and flow posteriors.

    Nodes z_1 .. z_N of D dimensions each; node N is the root, and z_n may depend on z_{n+1} .. z_N
    where its gates are open:

        Eq. prior   p(z given c) = N(z_N; 0, I) prod_n N(z_n; loc^_n, scale^_n), from MLP_TD_n(concat_j c[n,j] z_j)

    The posterior of a node has (loc_n, scale_n) from Eq. fusion and z_nT from Eq. iaf, with the log-probability of
    Eq. density. z_nT is what children and decoder see.

    Called with images it returns `Terms`. It is a plain Keras model otherwise: `compile`, `fit`,
    `evaluate`, `save`, `keras.models.load_model`.

    Args:
        config: a `Config`.
        adjacency: [N, N] of 0 and 1 with adjacency[child, parent], to fix the gates. None: the gates are
            learned if the method learns them, else all are open.

    Images everywhere are [B, ...] with pixels in {0, 1}; what follows B is fixed by the first batch.

    Source: the report "Latent Dependency Structure + Flow IAF optimization on Variational Autoencoder",
        after He et al. 2019 and Kingma et al. 2016 (arXiv 1606.04934).
    """

    def __init__(self, config: Config, adjacency=None, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        if adjacency is None and not config.learns_gates:
            adjacency = all_gates_open(config.num_nodes)
        self.gates = Gates(config.num_nodes, config.initial_gate_prob, adjacency, name="gates")
        self.encoder = mlp(config.encoder_units, "encoder")
        context_dim = config.context_dim if config.num_flow_steps else 0
        nodes = range(config.num_nodes)
        self.bottom_up = [
            GaussianNetwork(config.node_dim, config.node_units, context_dim, name=f"bottom_up_{n + 1}") for n in nodes
        ]
        self.top_down = [
            GaussianNetwork(config.node_dim, config.node_units, name=f"top_down_{n + 1}") for n in nodes[:-1]
        ]
        self.flows = [
            InverseAutoregressiveFlow(config.node_dim, config.num_flow_steps, config.flow_units, name=f"flow_{n + 1}")
            for n in (nodes if config.num_flow_steps else ())
        ]
        self.metric_means = {
            name: keras.metrics.Mean(name=name)
            for name in ["elbo", "reconstruction", "kl", *(f"kl_node_{n + 1}" for n in nodes), "gradient_norm"]
        }
        self.active_units = ActiveUnits((config.num_nodes, config.node_dim))
        self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        self.kl_weight = self.add_weight(name="kl_weight", initializer="ones", trainable=False)
        self.evaluated_batches = keras.metrics.Sum(name="evaluated_batches")

    # Keras's contract

    def build(self, input_shape):
        self.image_shape = tuple(input_shape[1:])
        self.num_pixels = int(np.prod(self.image_shape))
        config = self.config
        self.decoder = mlp(config.decoder_units, "decoder", self.num_pixels)
        self.gates.build()
        self.encoder.build((None, self.num_pixels))
        self.decoder.build((None, config.num_nodes * config.node_dim))
        for n in range(config.num_nodes):
            self.bottom_up[n].build((None, config.encoder_units[-1]))
            if n < config.num_nodes - 1:
                self.top_down[n].build((None, (config.num_nodes - 1 - n) * config.node_dim))
            if self.flows:
                self.flows[n].build((None, config.context_dim))
        self.built = True

    def get_config(self):
        return {"config": self.config.to_json(), "adjacency": self.gates.get_config()["adjacency"], "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(Config.from_json(config["config"]), config["adjacency"], name=config["name"])

    def compile(self, optimizer=None, jit_compile=None, **kwargs):
        """As Keras's, but returns the model, and takes its defaults from the config.

        The learning rate of the default optimizer is constant: a schedule needs to know the number of steps.
        """
        optimizer = schedules.make_optimizer(self.config) if optimizer is None else optimizer
        jit_compile = self.config.jit_compile if jit_compile is None else jit_compile
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        return self

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As Keras's; temperature and KL weight follow the epoch, and averaged weights are what is validated."""
        if self.built and self.compiled:
            self.optimizer.build(self.trainable_variables)  # else the first step is traced twice
        averaging = [keras.callbacks.SwapEMAWeights()] if self.compiled and self.optimizer.use_ema else []
        # Averaging comes last, so that in `on_test_end` the other callbacks still see the averaged weights.
        kwargs.setdefault("shuffle", not isinstance(x, tf.data.Dataset))
        return super().fit(x, *args, callbacks=[schedules.EpochSchedules(), *(callbacks or []), *averaging], **kwargs)

    def train_step(self, data):
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        seed = tf.random.fold_in([self.config.seed, 0], tf.cast(self.optimizer.iterations, tf.int32))
        with tf.GradientTape() as tape:
            terms = self(x, seed=seed, training=True)
            elbo = terms.elbo(tf.convert_to_tensor(self.kl_weight))
            loss = -tf.reduce_mean(elbo if weight is None else elbo * weight)
        gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
        self.optimizer.apply(gradients, self.trainable_variables)
        self.metric_means["gradient_norm"].update_state(tf.linalg.global_norm(gradients))
        logs = self._update_metrics(terms, weight)
        return logs if self.gates.fixed is not None else logs | {"temperature": tf.convert_to_tensor(self.temperature)}

    def test_step(self, data):
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        batch: typing.Any = tf.cast(self.evaluated_batches.total.value, tf.int32)
        seed = tf.random.fold_in([self.config.seed, 1], batch)
        self.evaluated_batches.update_state(1.0)
        bottom_up = self.infer(x)
        terms = self._terms(x, bottom_up, seed, 1)
        self.active_units.update_state(self.codes_and_innovations(bottom_up)[1], weight)
        return self._update_metrics(terms, weight) | {"active_units": self.active_units.result()}

    def _update_metrics(self, terms, weight=None):
        kl = tf.reduce_mean(terms.kl_per_node(), axis=0)
        values = {
            "elbo": tf.reduce_mean(terms.elbo(), axis=0),
            "reconstruction": tf.reduce_mean(terms.log_likelihood, axis=0),
            "kl": tf.reduce_sum(kl, axis=-1),
        }
        values |= {f"kl_node_{n + 1}": kl[:, n] for n in range(self.config.num_nodes)}
        for name, value in values.items():
            self.metric_means[name].update_state(value, weight)
        return {name: self.metric_means[name].result() for name in ("elbo", "reconstruction", "kl")}

    # Prior, posterior, likelihood

    def call(self, x, seed=(0, 0), num_samples=1, training=False):
        """Draws z from the posterior and evaluates every term.

        Args:
            x: [B, ...], images with pixels in {0, 1}.
            seed: [2], int32, a stateless seed.
            num_samples: S.
            training: whether learned gates are relaxed draws, instead of the most probable graph.

        Returns:
            `Terms` of S draws.
        """
        return self._terms(x, self.infer(x), seed, num_samples, training)

    def infer(self, x):
        """The bottom-up pass, once per image: the `GaussianParameters` of each node."""
        if not self.built:
            self.build(x.shape)
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"x must be images of shape {self.image_shape}. Received: {tuple(x.shape[1:])}.")
        features = self.encoder(self._flat(x))
        return [GaussianParameters(*network(features)) for network in self.bottom_up]

    def _flat(self, x):
        return tf.reshape(tf.cast(x, tf.float32), [-1, self.num_pixels])

    def _terms(self, x, bottom_up, seed, num_samples, training=False):
        flat = self._flat(x)
        shape = tf.concat([[num_samples], tf.shape(flat)[:1]], axis=0)  # [S, B]
        bottom_up = [node.tile(num_samples) for node in bottom_up]
        gate_seed, *seeds = tf.unstack(tf.random.split(seed, self.config.num_nodes + 1))
        gates = self._gates(shape[0] * shape[1], gate_seed, training)

        log_prior, log_posterior = {}, {}

        def draw(n, prior):
            z, log_posterior[n] = self._posterior(n, prior, bottom_up[n]).experimental_sample_and_log_prob(
                seed=seeds[n]
            )
            log_prior[n] = prior.log_prob(z)
            return z

        latents = self._descend(gates, draw)

        def per_node(values):
            stacked = tf.stack([values[n] for n in range(self.config.num_nodes)], axis=-1)
            return tf.reshape(stacked, tf.concat([shape, [self.config.num_nodes]], axis=0))

        logits = tf.reshape(self.decoder(tf.concat(latents, axis=-1)), tf.concat([shape, [self.num_pixels]], axis=0))
        return Terms(
            log_likelihood=tfd.Independent(tfd.Bernoulli(logits=logits), 1).log_prob(flat),
            log_prior=per_node(log_prior),
            log_posterior=per_node(log_posterior),
            latents=tf.reshape(tf.stack(latents, axis=1), tf.concat([shape, [self.config.num_nodes, -1]], axis=0)),
        )

    def _gates(self, num_rows, seed=None, training=False):
        """c for each row, [rows, N, N] relaxed or [1, N, N] hard."""
        if training and self.gates.fixed is None:
            return self.gates.sample(num_rows, tf.convert_to_tensor(self.temperature), seed)
        return self.gates.adjacency()[tf.newaxis]

    def _descend(self, gates, draw):
        """Visits the nodes from the root down: z_n = draw(n, prior of n given its parents). Returns [z_1, .., z_N]."""
        latents = []
        for n in reversed(range(self.config.num_nodes)):
            z = draw(n, self._prior(n, latents, gates))
            latents = [z, *latents]
        return latents

    def _prior(self, n, parents, gates):
        """Eq. prior: p(z_n given its parents z_{n+1} .. z_N and the gates)."""
        if not parents:
            zeros = tf.zeros([self.config.node_dim])
            return tfd.MultivariateNormalDiag(zeros, zeros + 1.0)
        gated = tf.concat([gates[:, n, n + 1 + j, tf.newaxis] * z for j, z in enumerate(parents)], axis=-1)
        loc, scale, _ = self.top_down[n](gated)
        return tfd.MultivariateNormalDiag(loc, scale)

    def _posterior(self, n, prior, bottom_up):
        """Eq. fusion, then Eq. density: q(z_n given x, its parents)."""
        loc, scale = bottom_up.loc, bottom_up.scale
        if n < self.config.num_nodes - 1:
            loc, scale = fuse((prior.loc, prior.scale.diag), (loc, scale))
        base = tfd.MultivariateNormalDiag(loc, scale)
        if not self.flows:
            return base
        return tfd.TransformedDistribution(base, self.flows[n](bottom_up.context))

    def _decode(self, latents, seed):
        """A picture of p(x given z): its means, and a draw."""
        likelihood = tfd.Bernoulli(logits=self.decoder(tf.concat(latents, axis=-1)), dtype=tf.float32)
        shape = (-1, *self.image_shape)
        return {
            "probs": tf.reshape(likelihood.probs_parameter(), shape),
            "images": tf.reshape(likelihood.sample(seed=seed), shape),
        }

    # What a trained model is used for

    def sample(self, num, seed=0):
        """Draws images from the prior.

        Args:
            num: how many.
            seed: scalar int; the same seed gives the same images.

        Returns:
            probs: [num, ...], means of p(x given z).
            images: [num, ...], draws of 0 and 1.

        Raises:
            ValueError: the model was neither fitted, loaded, called nor built.
        """
        if not self.built:
            raise ValueError("sample needs a model that knows the size of its images. Received: one that saw none yet.")
        seeds = tf.unstack(tf.random.split([seed, 2], self.config.num_nodes + 1))

        def draw(n, prior):
            return prior.sample(num, seed=seeds[n]) if n == self.config.num_nodes - 1 else prior.sample(seed=seeds[n])

        return self._decode(self._descend(self._gates(num), draw), seeds[-1])

    def encode(self, x):
        """The latent code of each image: z_T where every Gaussian draw is at its loc.

        Args:
            x: [B, ...], images with pixels in {0, 1}.

        Returns:
            codes: [B, N, D].
        """
        return self.codes_and_innovations(self.infer(x))[0]

    def codes_and_innovations(self, bottom_up):
        """The codes of `encode`, and what of them the prior did not foresee: code - prior loc given the parents' codes.

        Args:
            bottom_up: what `infer` returns.

        Returns:
            codes, innovations: [B, N, D].
        """
        innovations = [None] * self.config.num_nodes

        def draw(n, prior):
            posterior = self._posterior(n, prior, bottom_up[n])
            code = posterior.bijector(posterior.distribution.loc) if self.flows else posterior.loc
            innovations[n] = code - prior.loc
            return code

        codes = self._descend(self._gates(1), draw)
        return tf.stack(codes, axis=1), tf.stack(innovations, axis=1)

    def reconstruct(self, x, seed=0):
        """Each image from one draw of its posterior: `probs` and `images` as in `sample`, [B, ...]."""
        bottom_up = self.infer(x)
        seeds = tf.unstack(tf.random.split([seed, 3], self.config.num_nodes + 1))
        latents = self._descend(
            self._gates(1), lambda n, prior: self._posterior(n, prior, bottom_up[n]).sample(seed=seeds[n])
        )
        return self._decode(latents, seeds[-1])

    def log_likelihood(self, x, num_importance_samples=100, seed=0):
        """The importance-weighted bound on log p(x), Eq. iw.

        Args:
            x: [B, ...], images with pixels in {0, 1}.
            num_importance_samples: S; memory does not grow with it.
            seed: scalar int.

        Returns:
            log_likelihood: [B], nats.
        """
        return self.bounds(x, num_importance_samples, seed)["log_likelihood"]

    def bounds(self, x, num_importance_samples, seed=0):
        """Both bounds and the terms of the ELBO, from the same S draws; the encoder runs once.

        Args:
            x, num_importance_samples, seed: as in `log_likelihood`.

        Returns:
            elbo, log_likelihood, reconstruction: [B], nats.
            kl_per_node: [B, N], nats.
            innovations: [B, N, D], see `codes_and_innovations`.
        """
        if isinstance(num_importance_samples, int) and num_importance_samples < 1:
            raise ValueError(f"num_importance_samples must be at least 1. Received: {num_importance_samples}.")
        bottom_up = self.infer(x)
        batch = tf.shape(x)[0]
        chunk = tf.clip_by_value(_ROWS_PER_PASS // tf.maximum(batch, 1), 1, num_importance_samples)
        num_chunks = -(-num_importance_samples // chunk)

        def add_chunk(i, log_sum, reconstruction, kl):
            terms = self._terms(x, bottom_up, tf.random.fold_in([seed, 4], i), chunk)
            # The last chunk may reach beyond S: draws there have weight 0.
            used = (i * chunk + tf.range(chunk) < num_importance_samples)[:, tf.newaxis]
            log_weights = tf.where(used, terms.elbo(), -np.inf)
            return (
                i + 1,
                tf.reduce_logsumexp(tf.concat([log_sum[tf.newaxis], log_weights], axis=0), axis=0),
                reconstruction + tf.reduce_sum(tf.where(used, terms.log_likelihood, 0.0), axis=0),
                kl + tf.reduce_sum(tf.where(used[:, :, tf.newaxis], terms.kl_per_node(), 0.0), axis=0),
            )

        zeros = tf.zeros([batch])
        _, log_sum, reconstruction, kl = tf.while_loop(
            lambda i, *_: i < num_chunks,
            add_chunk,
            (0, zeros - np.inf, zeros, tf.zeros([batch, self.config.num_nodes])),
        )
        num = tf.cast(num_importance_samples, tf.float32)
        reconstruction, kl = reconstruction / num, kl / num
        return {
            "elbo": reconstruction - tf.reduce_sum(kl, axis=-1),
            "log_likelihood": log_sum - tf.math.log(num),
            "reconstruction": reconstruction,
            "kl_per_node": kl,
            "innovations": self.codes_and_innovations(bottom_up)[1],
        }
