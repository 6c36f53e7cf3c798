"""LDIAF: the generative model p(x, z) and its posterior q(z given x)."""

import math
import os
import pathlib
import typing
from collections.abc import Sequence

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.config import Config, ModelSettings
from tf_ldiaf.data import binarization
from tf_ldiaf.errors import FileError
from tf_ldiaf.fields import checked
from tf_ldiaf.layers.decoders import AdditiveDecoder
from tf_ldiaf.layers.encoders import make_decoder, make_encoder
from tf_ldiaf.layers.gates import Gates, edges_of
from tf_ldiaf.layers.latent_distributions import LatentPosterior, LatentPrior, check_latents
from tf_ldiaf.layers.latent_graph import LatentGraph
from tf_ldiaf.layers.likelihoods import make_likelihood
from tf_ldiaf.layers.own_networks import input_shape_of, is_reshaped, last_activation, shape_given_by
from tf_ldiaf.model.given import is_one_image
from tf_ldiaf.model.questions import Questions
from tf_ldiaf.model.served import ServedModel
from tf_ldiaf.probability.bounds import Terms
from tf_ldiaf.probability.likelihoods import grid_and_channels
from tf_ldiaf.probability.noise import stateless_seed

_EXPORTED = {"assets", "fingerprint.pb", "saved_model.pb", "variables"}
_ONLY_OURS = b"num_importance_samples"  # an argument of what a `ServedModel` answers
_BOUNDED = ("sigmoid", "hard_sigmoid", "softmax", "tanh", "relu")  # activations


@keras.saving.register_keras_serializable("tf_ldiaf")
class LDIAF(Questions):
    """Variational autoencoder with a learned latent graph and flow posteriors.

    p(x given z) is what the `likelihood` makes of a decoder's numbers. p(z) and q(z given x) are those of a
    `LatentGraph`. All three are TFP distributions: `prior()`, `posterior(x)`, `likelihood(z)`.

    Called with images it returns `Terms`. It is a plain Keras model otherwise: `compile`, `fit`,
    `evaluate`, `save`, `keras.models.load_model`.

    Args:
        num_nodes: N.
        node_dim: D, dimensions of each node.
        num_flow_steps: T, inverse autoregressive steps of each node's posterior; 0 for none.
        edges: pairs (parent, child) of node numbers, to fix the graph. None: the gates are learned.
        encoder: a Keras model from images to features [B, F]; None for a network of `encoder_units`.
        decoder: a Keras model from latents [B, N * D] or [B, N, D] to the numbers that the likelihood needs, a logit
            for each pixel of 0 and 1; "additive" for an `AdditiveDecoder`, each of whose nodes has `decoder_units`;
            None for one network of `decoder_units`.
        likelihood: what a pixel may be. "bernoulli": 0 or 1. "discretized_logistic", "categorical": 256 values, see
            `layers.DiscretizedLogistic` and `layers.Categorical`. Or a layer of your own, see `layers.likelihoods`.
        likelihood_components: of "discretized_logistic": logistics of each pixel. None: 1 for grey, 10 for colour.
        encoder_units, decoder_units, channels, residual_blocks: of the package's own encoder and decoder, see
            `make_encoder`.
        node_units, flow_units, context_dim, root_components, initial_gate_prob, prior_flow_steps: see `LatentGraph`.
        frozen: weights that are not trained, for `get_config`: pairs of a part's name, see `parts`, and places in it.

    Images everywhere are [B, H, W] or [B, H, W, C]. Pixels are 0 and 1; of 256 values they are uint8 in 0-255, or float
    k / 255. H, W and C are fixed by the first batch. An encoder gets pixels in 0-1; your own gets them in the shape of
    its input, if that has as many. Training images of a "bernoulli" may be grey, see `compile`.

    Source: the report "Latent Dependency Structure + Flow IAF optimization on Variational Autoencoder",
    after He et al. 2019 and Kingma et al. 2016 (arXiv 1606.04934).

    Example:

        >>> import numpy as np, tf_ldiaf
        >>> x = np.random.default_rng(0).integers(0, 2, (8, 4, 4))
        >>> model = tf_ldiaf.LDIAF(num_nodes=2, node_dim=3, num_flow_steps=1, encoder_units=[8], decoder_units=[8])
        >>> z = model.posterior(x).sample(5, seed=0)
        >>> z.shape, model.likelihood(z).log_prob(x).shape
        (TensorShape([5, 8, 2, 3]), TensorShape([5, 8]))
    """

    def __init__(
        self,
        num_nodes: int = 5,
        node_dim: int = 16,
        num_flow_steps: int = 2,
        *,
        edges: Sequence[tuple[int, int]] | None = None,
        encoder: keras.Model | None = None,
        decoder: keras.Model | str | None = None,
        likelihood: keras.layers.Layer | str = "bernoulli",
        likelihood_components: int | None = None,
        encoder_units: Sequence[int] = ModelSettings.encoder_units,
        decoder_units: Sequence[int] = ModelSettings.decoder_units,
        channels: Sequence[int] = ModelSettings.channels,
        residual_blocks: int = ModelSettings.residual_blocks,
        node_units: Sequence[int] = ModelSettings.node_units,
        flow_units: Sequence[int] = ModelSettings.flow_units,
        context_dim: int = ModelSettings.context_dim,
        root_components: int = ModelSettings.root_components,
        initial_gate_prob: float = ModelSettings.initial_gate_prob,
        prior_flow_steps: int = ModelSettings.prior_flow_steps,
        frozen: Sequence[tuple[str, Sequence[int]]] = (),
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if self.dtype_policy.name != "float32":
            raise ValueError(f"dtype must be float32. Received: {self.dtype_policy.name}.")
        sizes = {"num_nodes": num_nodes, "node_dim": node_dim, "num_flow_steps": num_flow_steps}
        units = {"encoder_units": encoder_units, "decoder_units": decoder_units, "channels": channels}
        units |= {"node_units": node_units, "flow_units": flow_units, "context_dim": context_dim}
        nums = {"root_components": root_components, "likelihood_components": likelihood_components}
        nums |= {"residual_blocks": residual_blocks, "prior_flow_steps": prior_flow_steps}
        checked(ModelSettings, **sizes, **units, **nums, initial_gate_prob=initial_gate_prob)
        self._frozen = tuple((name, tuple(places)) for name, places in frozen)
        self.num_nodes, self.node_dim, self.num_flow_steps = num_nodes, node_dim, num_flow_steps
        self.encoder_units, self.decoder_units, self.channels = map(tuple, (encoder_units, decoder_units, channels))
        if isinstance(decoder, str) and decoder != "additive":
            raise ValueError(f"decoder must be a Keras model, additive or None. Received: {decoder}.")
        for name, network in (("encoder", encoder), ("decoder", None if decoder == "additive" else decoder)):
            if not (network is None or isinstance(network, keras.Layer)):
                raise ValueError(f"{name} must be a Keras model or None. Received: {network!r}.")
        self.own_encoder, self.own_decoder = encoder is not None, decoder not in (None, "additive")
        self.is_additive = decoder == "additive"
        self.encoder: typing.Any = encoder
        self.decoder: typing.Any = decoder
        self.residual_blocks = residual_blocks
        self.likelihood_components, self.own_likelihood = likelihood_components, not isinstance(likelihood, str)
        self.likelihood_layer: typing.Any = make_likelihood(likelihood, likelihood_components)
        self.likelihood_name = likelihood if isinstance(likelihood, str) else likelihood.name
        self.num_values = self.likelihood_layer.num_values
        self.pixels = "binary" if self.num_values == 2 else "eight-bit"
        self.graph = LatentGraph(
            *(num_nodes, node_dim, num_flow_steps, edges, node_units, flow_units, context_dim),
            *(root_components, initial_gate_prob, prior_flow_steps),
            name="graph",
        )
        self.make_metrics()

    @classmethod
    def from_settings(cls, settings: Config, edges: Sequence[tuple[int, int]] | None = None) -> "LDIAF":
        """The model of a `Config`, whose further settings are for its training.

        Args:
            settings: a `Config`.
            edges: the learned graph, for the final phase. None: the settings' own edges, or gates that are learned.
        """
        names = ["num_nodes", "node_dim", "num_flow_steps", "encoder_units", "decoder_units", "channels"]
        names += ["residual_blocks", "node_units", "flow_units", "context_dim", "root_components", "initial_gate_prob"]
        names += ["prior_flow_steps", "likelihood", "likelihood_components"]
        edges = settings.fixed_edges if edges is None else edges
        decoder = None if settings.decoder == "dense" else settings.decoder
        return cls(**{name: getattr(settings, name) for name in names}, edges=edges, decoder=decoder)

    # Keras's contract

    def build(self, input_shape) -> None:
        self.image_shape = tuple(input_shape[1:])
        if len(self.image_shape) == 3 and self.image_shape[0] in (1, 3, 4) and self.image_shape[2] > 4:
            raise ValueError(f"x must have its channels last, [B, H, W, C]. Received: images of {self.image_shape}.")
        self.num_dims = math.prod(self.image_shape)
        grid, _ = grid_and_channels(self.image_shape)
        numbers = self.likelihood_layer.numbers_per_pixel(self.image_shape)
        self.numbers_shape, self.numbers_per_image = (*grid, numbers), math.prod(grid) * numbers
        if self.encoder is None:
            self.encoder = make_encoder(self.encoder_units, self.channels, self.image_shape, self.residual_blocks)
            self.encoder.build((None, self.num_dims))
        if self.decoder is None:
            sizes = self.decoder_units, self.channels, self.image_shape, self.residual_blocks
            self.decoder = make_decoder(*sizes, numbers_per_pixel=numbers)
            self.decoder.build((None, self.num_nodes * self.node_dim))
        elif self.decoder == "additive":  # its place among the layers is that of a dense one
            sizes = self.num_nodes, self.node_dim, self.image_shape, self.decoder_units
            self.decoder = AdditiveDecoder(*sizes, numbers_per_pixel=numbers)
        if isinstance(self.decoder, AdditiveDecoder):
            self.decoder.check_fits(self.num_nodes, self.node_dim, self.image_shape)
        latents = self.num_nodes, self.node_dim
        self.encoder_input = input_shape_of(self.encoder, "encoder", self.image_shape) or self.image_shape
        self.decoder_input = input_shape_of(self.decoder, "decoder", latents) or (math.prod(latents),)
        features = shape_given_by(self.encoder, "encoder", self.encoder_input)
        outputs = shape_given_by(self.decoder, "decoder", self.decoder_input)
        if len(features) != 1 or features[0] is None:
            raise ValueError(f"encoder must give features [B, F]. Received: one that gives {(None, *features)}.")
        if None in outputs or not is_reshaped(outputs, self.numbers_shape):
            raise ValueError(
                f"decoder must give {self.numbers_per_image} numbers for an image, {numbers} for each pixel of {grid}, "
                f"as its likelihood needs, of shape {self.numbers_shape}. Received: one that gives {(None, *outputs)}."
            )
        activation = last_activation(self.decoder)
        if activation in _BOUNDED and not self.own_likelihood:
            raise ValueError(
                "decoder must give logits or other numbers without bounds: its likelihood makes probabilities of them. "
                f"Received: one that ends with {activation}."
            )
        if not self.likelihood_layer.built:
            self.likelihood_layer.build((None, *self.numbers_shape))
        self.graph.build((None, *features))
        for name, places in self._frozen:
            part = self.parts().get(name)  # a part that other settings leave out is None
            for i, weight in enumerate(part.weights if part else []):
                weight.trainable &= i not in places
            if part and part.weights and not part.trainable_weights:
                part.trainable = False
        self.built = True

    @property
    def gates(self) -> Gates:
        """The gates of the latent graph."""
        return self.graph.gates

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Pairs (parent, child): the fixed graph, or the most probable one while gates are learned."""
        return edges_of(self.gates.adjacency().numpy())

    def get_config(self) -> dict:
        own = {"encoder": self.own_encoder, "decoder": self.own_decoder}
        networks = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) if is_own else None
            for name, is_own in own.items()
        }
        graph = self.graph.get_config()
        graph = {name: graph[name] for name in graph if name not in ("name", "trainable", "dtype")}
        units = {
            name: getattr(self, name) for name in ("encoder_units", "decoder_units", "channels", "residual_blocks")
        }
        networks |= {"decoder": "additive"} if self.is_additive else {}
        likelihood = self.likelihood_name
        if self.own_likelihood:
            likelihood = keras.saving.serialize_keras_object(self.likelihood_layer)
        networks |= {"likelihood": likelihood, "likelihood_components": self.likelihood_components}
        frozen = self._frozen
        if self.built:
            weights = {name: part.weights for name, part in self.parts().items()}
            places = {name: [i for i, w in enumerate(ours) if not w.trainable] for name, ours in weights.items()}
            frozen = [(name, of_one) for name, of_one in places.items() if of_one]
        return {"name": self.name, **graph, **units, **networks, "frozen": frozen}

    def parts(self) -> dict[str, typing.Any]:
        """The layers that have weights, by name."""
        parts = {name: getattr(self, name) for name in ("encoder", "decoder", "likelihood_layer")}
        names = ["gates", "bottom_up", "top_down", "flows", "prior_flows", "root"]
        parts |= {name: getattr(self.graph, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "LDIAF":
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("encoder", "decoder", "likelihood")
            if config.get(name) is not None
        }
        return cls(**config | networks)

    def export(self, filepath: str | os.PathLike, format: str = "tf_saved_model", **kwargs) -> None:
        """Writes a SavedModel that needs nothing but TensorFlow; what it can be asked is said by `ServedModel`.

        Args:
            filepath: a new folder, or one of which this has made all, which is replaced.
            format: "tf_saved_model", the only one.

        Raises:
            FileError: the folder holds other files, such as a run's model card, which would speak of another model; or
                a SavedModel of another kind.
        """
        if format != "tf_saved_model":
            raise ValueError(f"format must be tf_saved_model. Received: {format}.")
        self._check_built("export")
        place = os.path.expanduser(filepath)  # which leaves addresses, such as gs://bucket, as they are
        folder = pathlib.Path(place)
        others = [file.name for file in folder.iterdir() if file.name not in _EXPORTED] if folder.is_dir() else []
        if others:
            raise FileError(
                f"`filepath` must be a folder with nothing but a SavedModel. Received: {folder}, which holds "
                f"{', '.join(sorted(others)[:3])} too."
            )
        saved = folder / "saved_model.pb"
        if saved.exists() and _ONLY_OURS not in saved.read_bytes():
            raise FileError(f"`filepath` must be a new folder. Received: {folder}, which holds another SavedModel.")
        served = ServedModel(self)
        tf.saved_model.save(served, place, signatures=served.concrete)

    @property
    def loops_can_be_compiled(self) -> bool:
        """Whether XLA may compile loops around encoder and decoder; on a CPU, convolutions in them would be slow."""
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        is_dense = not self.own_decoder or isinstance(self.decoder, AdditiveDecoder)
        return on_gpu or (is_dense and not self.own_encoder and not self.channels)

    # Prior, posterior, likelihood

    def call(self, x, seed=None, num_samples: int | tf.Tensor = 1, training: bool = False) -> Terms:
        """Draws z from the posterior and evaluates every term.

        Args:
            x: [B, ...], images.
            seed: an int or a stateless seed [2], int32; None for new draws at every call.
            num_samples: S.
            training: whether learned gates are relaxed draws, instead of the most probable graph; and what own networks
                are told.

        Returns:
            `Terms` of S draws.
        """
        return self.terms(x, self.features(x, training), stateless_seed(seed), num_samples, training)

    def prior(self) -> LatentPrior:
        """p(z), with batch shape [] and event shape [N, D]."""
        self._check_built("prior")
        return self.graph.prior()

    def posterior(self, x) -> LatentPosterior:
        """q(z given x) of images x [B, ...], with batch shape [B] and event shape [N, D]."""
        return self.graph.posterior(self.features(x))

    def likelihood(self, z, training: bool = False) -> tfp.distributions.Distribution:  # pyright: ignore[reportInvalidTypeForm]
        """p(x given z) of latents z [..., N, D], with batch shape [...] and the images' event shape.

        Its events are whole numbers, 0 and 1 or 0 .. 255, as float32: `values` of images.
        """
        self._check_built("likelihood")
        z = tf.convert_to_tensor(z)
        check_latents(z, self.num_nodes, self.node_dim)
        outputs = tf.cast(self.decoder(tf.reshape(z, [-1, *self.decoder_input]), training=training), tf.float32)
        outputs = tf.reshape(outputs, tf.concat([tf.shape(z)[:-2], self.numbers_shape], axis=0))
        outputs = tf.ensure_shape(outputs, [*z.shape[:-2], *self.numbers_shape])
        found = self.likelihood_layer(outputs, image_shape=self.image_shape)
        is_known = isinstance(found, tfp.distributions.Distribution)
        if not is_known or not found.event_shape.is_compatible_with(self.image_shape):
            raise ValueError(
                f"likelihood must give a distribution whose events are images, {self.image_shape}; "
                f"tfp.distributions.Independent makes them of pixels. Received: {found}."
            )
        return found

    def values(self, x) -> tf.Tensor:
        """Images x [B, ...] as `likelihood` has them: float32, whole numbers."""
        return binarization.values(x, self.pixels)

    def shown(self, x) -> tf.Tensor:
        """Images x [B, ...] as the encoder and a picture have them: float32 in 0-1."""
        return self.scaled(self.values(x))

    def features(self, x, training: bool = False) -> tf.Tensor:
        """What the encoder says of images x [B, ...]: [B, F].

        Raises:
            ValueError: images of another size than those that the model was built for.
            DataError: pixels that the model cannot have. In a graph without XLA that is TensorFlow's
                InvalidArgumentError; XLA does not check them.
        """
        x = tf.convert_to_tensor(x)
        impossible = binarization.impossible(x, self.pixels)
        if not tf.executing_eagerly():
            pixel = binarization.impossible_pixel(self.pixels, "others")
            tf.debugging.Assert(~tf.reduce_any(impossible), [str(pixel)])
        elif tf.reduce_any(impossible):
            raise binarization.impossible_pixel(self.pixels, str(x[impossible][0].numpy()))
        return self.encoded(x, training)

    def encoded(self, x, training: bool = False) -> tf.Tensor:
        """`features` of pixels that are not looked at."""
        x = self.shown(x)
        if not self.built:
            if not tf.executing_eagerly() and is_one_image(x.shape):
                raise ValueError(
                    "x must be batches of images, [B, H, W] or [B, H, W, C]. Received: elements of shape "
                    f"{tuple(x.shape)}. If they are batches, call `model.build` with their shape first."
                )
            self.build(x.shape)
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(f"x must be images of shape {self.image_shape}. Received: {tuple(x.shape[1:])}.")
        # An encoder of one's own may compute in another precision.
        return tf.cast(self.encoder(tf.reshape(x, [-1, *self.encoder_input]), training=training), tf.float32)

    def terms(self, x, features, seed, num_samples, training=False, first=(0, 0)) -> Terms:
        """`call` for images whose features are known; `first` as in `noise.uniform`."""
        shape = (num_samples, tf.shape(features)[0])
        gate_seed, noise_seed = tf.unstack(tf.random.split(seed))
        temperature = tf.convert_to_tensor(self.temperature) if training else None
        posterior = self.graph.posterior(features, self.graph.draw_gates(shape, temperature, gate_seed))
        drawn = posterior.from_noise(self.graph.noise(shape, noise_seed, first))
        return Terms(
            log_likelihood=self.likelihood(drawn.z, training).log_prob(self.values(x)),
            log_prior=drawn.log_prior,
            log_posterior=drawn.log_posterior,
            latents=drawn.z,
        )

    def _check_built(self, name):
        if not self.built:
            raise ValueError(
                f"{name} needs a model that knows the size of its images. Received: one that saw none yet."
            )
