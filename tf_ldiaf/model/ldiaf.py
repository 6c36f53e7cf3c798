"""LDIAF: the generative model p(x, z), its posterior q(z given x), and how both are trained and used."""

import typing

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.config import Config
from tf_ldiaf.layers.latent_graph import LatentGraph
from tf_ldiaf.layers.networks import make_decoder, make_encoder
from tf_ldiaf.layers.stacked import softplus
from tf_ldiaf.model import schedules
from tf_ldiaf.model.metrics import ActiveUnits, NonFiniteSteps, TermMeans
from tf_ldiaf.probability.bounds import Terms
from tf_ldiaf.probability.noise import bernoulli

# Importance samples are drawn so many rows (samples x images) at a time: memory does not grow with S.
_ROWS_PER_PASS = 4096


@keras.saving.register_keras_serializable("tf_ldiaf")
class LDIAF(keras.Model):
    """Variational autoencoder with a learned latent graph and flow posteriors.

    p(x given z) is a decoder's Bernoulli for each pixel; p(z) and q(z given x) are those of a `LatentGraph`.

    Called with images it returns `Terms`. It is a plain Keras model otherwise: `compile`, `fit`,
    `evaluate`, `save`, `keras.models.load_model`.

    Args:
        config: a `Config`.
        adjacency: [N, N] of 0 and 1 with adjacency[child, parent], to fix the gates. None: the gates are
            learned, or those of the config if it has a graph.

    Images everywhere are [B, ...] with pixels in {0, 1}; what follows B is fixed by the first batch. Only training
    images are grey, uint8 in 0-255 or float in 0-1, where the config's binarisation is dynamic: each step draws anew.

    Source: the report "Latent Dependency Structure + Flow IAF optimization on Variational Autoencoder",
        after He et al. 2019 and Kingma et al. 2016 (arXiv 1606.04934).
    """

    def __init__(self, config: Config, adjacency=None, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.graph = LatentGraph(config, adjacency, name="graph")
        nodes = [f"kl_node_{n + 1}" for n in range(config.num_nodes)]
        self.term_means = TermMeans(["elbo", "reconstruction", "kl", *nodes, "gradient_norm"])
        self.nonfinite_steps = NonFiniteSteps(self.term_means.names)
        self.active_units = ActiveUnits((config.num_nodes, config.node_dim))
        self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        self.kl_weight = self.add_weight(name="kl_weight", initializer="ones", trainable=False)
        self.evaluated_images = keras.metrics.Sum(name="evaluated_images")

    # Keras's contract

    def build(self, input_shape):
        self.image_shape = tuple(input_shape[1:])
        self.num_pixels = int(np.prod(self.image_shape))
        config = self.config
        self.encoder = make_encoder(config.encoder_units, config.channels, self.image_shape)
        self.decoder = make_decoder(config.decoder_units, config.channels, self.image_shape)
        self.graph.build()
        self.encoder.build((None, self.num_pixels))
        self.decoder.build((None, config.num_nodes * config.node_dim))
        self.built = True

    @property
    def gates(self):
        """The gates of the latent graph."""
        return self.graph.gates

    def get_config(self):
        return {"config": self.config.to_json(), "adjacency": self.gates.get_config()["adjacency"], "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(Config.from_json(config["config"]), config["adjacency"], name=config["name"])

    def compile(self, optimizer=None, jit_compile=None, **kwargs):
        """As Keras's, but returns the model, and takes its defaults from the config.

        The learning rate of the default optimizer is constant: a schedule needs to know the number of steps. Weight
        decay is for kernels only.
        """
        optimizer = schedules.make_optimizer(self.config) if optimizer is None else keras.optimizers.get(optimizer)
        if not optimizer.built:
            # Decay would pull a gate to 1/2. Keras does not save this with an optimizer, so it is said here.
            optimizer.exclude_from_weight_decay(var_names=["scaled_logits", "bias", "component"])
        # Keras would add up the replicas' gradients; `_step` has to do so before, because it clips their sum.
        optimizer._all_reduce_sum_gradients = list
        jit_compile = self.config.jit_compile if jit_compile is None else jit_compile
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            jit_compile = False  # XLA has no collectives on a CPU; what needs none is compiled by `on_replica`
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        return self

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(config)["optimizer"])
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As Keras's; temperature and KL weight follow the epoch, and averaged weights are what is validated."""
        if self.built and self.compiled:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)  # else the first step is traced twice
        averaging = [keras.callbacks.SwapEMAWeights()] if self.compiled and self.optimizer.use_ema else []
        # Averaging comes last, so that in `on_test_end` the other callbacks still see the averaged weights.
        kwargs.setdefault("shuffle", not isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)))
        return super().fit(x, *args, callbacks=[schedules.EpochSchedules(), *(callbacks or []), *averaging], **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras would take a batch from several workers to build layers, and fails on tuples. `build` is enough."""

    def train_step(self, data):
        """One step on images [B, ...]; or on a launch of `data.training_launches`, one step on each of its batches.

        A launch is one XLA program: its loop keeps the weights in place, and is entered once.
        """
        x, num_steps, weight = keras.utils.unpack_x_y_sample_weight(data)
        if num_steps is None or len(num_steps.shape):
            self._step(x, weight)
        else:
            tf.while_loop(lambda i: i < num_steps, lambda i: (self._step(x[i]), i + 1)[1:], [0])
        if self.gates.fixed is not None:
            return self._shown()
        return self._shown(temperature=tf.convert_to_tensor(self.temperature))

    def _step(self, x, weight=None):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        gradients, values = self.on_replica(self._gradients, x, weight, step)
        share_bad = self._share_bad(values)
        replica: typing.Any = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradients, share_bad = replica.all_reduce(tf.distribute.ReduceOp.MEAN, (gradients, share_bad))
        gradients, norm = schedules.clip(gradients, self.config.clip_norm)
        values = self._with_norm(values, norm)
        is_bad = tf.concat([share_bad > 0.0, [tf.logical_not(tf.math.is_finite(norm))]], axis=0)
        self.nonfinite_steps.update_state(is_bad, step)
        if self.config.on_nonfinite == "skip":
            tf.cond(tf.reduce_any(is_bad), lambda: None, lambda: self._learn(gradients, values, weight))
        else:
            self._learn(gradients, values, weight)

    def on_replica(self, function, *arguments):
        """`function(*arguments)`, which needs no other replica; compiled if it is not part of a larger program."""
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return function(*arguments)
        compiled = tf.function(function, jit_compile=self.config.jit_compile, autograph=False)
        return tf.nest.map_structure(tf.identity, compiled(*arguments))  # tensors that know their device

    def _gradients(self, x, weight, step):
        """Of the loss, for each trainable variable; and the `_values` that go with them."""
        seed = tf.random.fold_in([self.config.seed, 0], step)
        if self.config.binarization == "dynamic":
            x = bernoulli(x, tf.random.fold_in([self.config.seed, 6], step))
        with tf.GradientTape() as tape:
            terms = self(x, seed=seed, training=True)
            elbo = terms.elbo(tf.convert_to_tensor(self.kl_weight))
            loss = -tf.reduce_mean(elbo if weight is None else elbo * weight)
            if self.gates.fixed is None:
                # Not from the start: an edge is worth nothing before its network has learned to use it.
                price = self.config.edge_cost * (1.0 - tf.convert_to_tensor(self.temperature))
                loss += price * tf.reduce_sum(self.gates.probs())
        return tape.gradient(loss, [v.value for v in self.trainable_variables]), self._values(terms)

    def _learn(self, gradients, values, weight):
        self.optimizer.apply(gradients, self.trainable_variables)
        self.term_means.update_state(values, weight)

    def test_step(self, data):
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        so_far, num = tf.cast(self.evaluated_images.total.value, tf.int32), tf.shape(x)[0]  # by this replica
        self.evaluated_images.update_state(tf.cast(num, tf.float32))
        first_image = so_far * tf.distribute.get_strategy().num_replicas_in_sync
        values, innovations = self.on_replica(self._validate, x, first_image)
        self.term_means.update_state(values, weight)
        self.active_units.update_state(innovations, weight)
        return self._shown(active_units=self.active_units.result())

    def _validate(self, x, first_image):
        bottom_up = self.infer(x)
        terms = self._terms(x, bottom_up, [self.config.seed, 1], 1, first=(0, first_image))
        values = self._with_norm(self._values(terms), 0.0)
        return values, self.codes_and_innovations(bottom_up)[1]

    def _shown(self, **logs):
        """What Keras shows: some of `term_means`, and `logs`."""
        means = self.term_means.result()
        logs |= {name: means[name] for name in ("elbo", "reconstruction", "kl")}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the mean over an axis of what workers return (keras issue 20585).
            logs = {name: value[tf.newaxis] for name, value in logs.items()}
        return logs

    def _values(self, terms):
        """What `term_means` averages but the gradient's norm: [names - 1, B]."""
        kl = tf.reduce_mean(terms.kl_per_node(), axis=0)
        elbo, reconstruction = tf.reduce_mean(terms.elbo(), axis=0), tf.reduce_mean(terms.log_likelihood, axis=0)
        return tf.stack([elbo, reconstruction, tf.reduce_sum(kl, axis=-1), *tf.unstack(kl, axis=-1)])

    @staticmethod
    def _with_norm(values, gradient_norm):
        return tf.concat([values, tf.fill([1, tf.shape(values)[1]], gradient_norm)], axis=0)

    @staticmethod
    def _share_bad(values):
        """Of each term, the share of images where it is infinite or not a number."""
        return 1.0 - tf.reduce_mean(tf.cast(tf.math.is_finite(values), tf.float32), axis=1)

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
        """The bottom-up pass, once per image: the `GaussianParameters` of all nodes, [N, B, ...]."""
        if not self.built:
            self.build(x.shape)
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"x must be images of shape {self.image_shape}. Received: {tuple(x.shape[1:])}.")
        return self.graph.infer(self.encoder(self._flat(x)))

    def _flat(self, x):
        return tf.reshape(tf.cast(x, tf.float32), [-1, self.num_pixels])

    def _terms(self, x, bottom_up, seed, num_samples, training=False, first=(0, 0)):
        flat = self._flat(x)
        shape = (num_samples, tf.shape(flat)[0])
        gate_seed, noise_seed = tf.unstack(tf.random.split(seed))
        learning = training and self.gates.fixed is None
        temperature = tf.convert_to_tensor(self.temperature) if learning else None
        gates = self.graph.draw_gates(shape, temperature, gate_seed)
        drawn = self.graph.posterior(bottom_up, gates, self.graph.noise(shape, noise_seed, first))
        logits = self._logits(drawn.z)
        return Terms(
            log_likelihood=tf.reduce_sum(flat * logits - softplus(logits), axis=-1),
            log_prior=drawn.log_prior,
            log_posterior=drawn.log_posterior,
            latents=drawn.z,
        )

    def _logits(self, latents):
        """Of p(x given z): [S, B, X] from [S, B, N, D]."""
        rows = tf.reshape(latents, [-1, self.config.num_nodes * self.config.node_dim])
        return tf.reshape(self.decoder(rows), tf.concat([tf.shape(latents)[:-2], [self.num_pixels]], axis=0))

    def _decode(self, latents, seed):
        """A picture of p(x given z): its means, and a draw."""
        import tensorflow_probability as tfp  # takes 0.6 s, which training need not wait for

        likelihood = tfp.distributions.Bernoulli(logits=self._logits(latents), dtype=tf.float32)
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
        noise_seed, image_seed = tf.unstack(tf.random.split([seed, 2]))
        shape = (1, tf.cast(num, tf.int32))
        gates, noise = self.graph.draw_gates(shape), self.graph.noise(shape, noise_seed)
        latents = self.graph.prior(gates, noise, tf.random.fold_in(noise_seed, 1))
        return self._decode(latents, image_seed)

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
        noise = tf.zeros([self.config.num_nodes, 1, 1, 1])
        drawn = self.graph.posterior(bottom_up, self.graph.draw_gates(shape=None), noise)
        return drawn.z[0], drawn.innovation[0]

    def reconstruct(self, x, seed=0):
        """Each image from one draw of its posterior: `probs` and `images` as in `sample`, [B, ...]."""
        noise_seed, image_seed = tf.unstack(tf.random.split([seed, 3]))
        shape = (1, tf.shape(x)[0])
        gates, noise = self.graph.draw_gates(shape), self.graph.noise(shape, noise_seed)
        drawn = self.graph.posterior(self.infer(x), gates, noise)
        return self._decode(drawn.z, image_seed)

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

    def bounds(self, x, num_importance_samples, seed=0, first_image=0):
        """Both bounds and the terms of the ELBO, from the same S draws; the encoder runs once.

        Args:
            x, num_importance_samples, seed: as in `log_likelihood`.
            first_image: place of the first of `x` among all images, see `noise.uniform`.

        Returns:
            elbo, log_likelihood, reconstruction: [B], nats.
            kl_per_node: [B, N], nats.
            innovations: [B, N, D], see `codes_and_innovations`.
        """
        if isinstance(num_importance_samples, int) and num_importance_samples < 1:
            raise ValueError(f"num_importance_samples must be at least 1. Received: {num_importance_samples}.")
        bottom_up = self.infer(x)
        batch = tf.shape(x)[0]
        most = tf.clip_by_value(_ROWS_PER_PASS // tf.maximum(batch, 1), 1, num_importance_samples)
        num_chunks = -(-num_importance_samples // most)
        chunk = -(-num_importance_samples // num_chunks)  # equal, so that few draws are made in vain

        def add_chunk(i, log_sum, reconstruction, kl):
            terms = self._terms(x, bottom_up, [seed, 4], chunk, first=(i * chunk, first_image))
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
