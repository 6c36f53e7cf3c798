"""How a bound is trained and validated: the steps that Keras takes, over one device or several."""

import typing

import keras
import tensorflow as tf

from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.data import binarization
from tf_ldiaf.execution.private import without_decay, without_gradient_sum
from tf_ldiaf.fields import checked
from tf_ldiaf.model.fitted import Fitted
from tf_ldiaf.model.given import images_of
from tf_ldiaf.model.metrics import ActiveUnits, NonFiniteSteps, TermMeans, Total
from tf_ldiaf.probability.bounds import Terms


class Objective(typing.NamedTuple):
    """What `Trainer.compile` takes besides Keras's arguments; see there."""

    seed: int
    binarization: str
    clip_norm: float
    kl_warmup_epochs: int
    structure_epochs: int
    final_temperature: float
    edge_cost: float
    on_nonfinite: str


class Trainer(Fitted):
    """A Keras model that is fitted by maximising its ELBO.

    A subclass gives the terms of the bound: `encoded(x)`, `terms(x, features, seed, num_samples, training, first)`,
    `codes_and_innovations(features)`, its `gates`, `num_nodes`, `node_dim`, and `loops_can_be_compiled`.
    """

    def make_metrics(self) -> None:
        """Makes what is averaged over an epoch, and what changes with it. To be called at the end of `__init__`."""
        nodes = [f"kl_node_{n + 1}" for n in range(self.num_nodes)]
        self.term_means = TermMeans(["elbo", "reconstruction", "kl", *nodes, "gradient_norm"])
        self.nonfinite_steps = NonFiniteSteps(self.term_means.names)
        self.active_units = ActiveUnits((self.num_nodes, self.node_dim))
        self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        self.kl_weight = self.add_weight(name="kl_weight", initializer="ones", trainable=False)
        self.epochs_done = self.add_weight(name="epochs_done", dtype="int32", initializer="zeros", trainable=False)
        self.evaluated_images, self.bad_pixels = Total("evaluated_images"), Total("bad_pixels")
        self.bad_pixels_predicted = Total("bad_pixels_predicted")
        self.grey_images, self.bright_pixels = Total("grey_images"), Total("bright_pixels")

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
        seed: int = TrainingSettings.seed,
        binarization: str = "none",
        clip_norm: float = TrainingSettings.clip_norm,
        kl_warmup_epochs: int = TrainingSettings.kl_warmup_epochs,
        structure_epochs: int = 50,
        final_temperature: float = TrainingSettings.final_temperature,
        edge_cost: float = TrainingSettings.edge_cost,
        on_nonfinite: str = TrainingSettings.on_nonfinite,
        jit_compile: bool | str = "auto",
        **kwargs,
    ) -> None:
        """As Keras's.

        Args:
            optimizer: a Keras optimizer or its name. Weight decay leaves out biases, gates, the root's components, and
                the gamma and beta of own normalisation; and what the optimizer leaves out already.
            seed: everything random in the steps is a function of it and of the step's number, but for dropout of own
                networks, which counts its own draws.
            binarization: "dynamic" if training images are grey, uint8 in 0-255 or float in 0-1: each step draws its
                images of 0 and 1 from them, which a likelihood of other values does not take. Otherwise images are
                already as the likelihood has them.
            clip_norm: largest global norm of the gradient; 0: it is not clipped.
            kl_warmup_epochs: epochs over which the weight of the KL term rises to 1.
            structure_epochs: epochs over which the gates' temperature falls from 1, if gates are learned.
            final_temperature: to what it falls.
            edge_cost: price of an open gate while gates are learned, nats per image. It comes in as the temperature
                falls.
            on_nonfinite: what a step with a term that is infinite or not a number does. "stop": it ends `fit` with a
                `NonFiniteError`. "skip": it is left out and counted. Moving means of own batch normalisation have
                seen it, though.
            jit_compile: whether XLA compiles the steps.
            kwargs: Keras's.
        """
        if binarization not in ("none", "threshold", "dynamic"):
            raise ValueError(f"binarization must be dynamic or none. Received: {binarization}.")
        if binarization == "dynamic" and self.pixels != "binary":
            raise ValueError("binarization must be none with a likelihood of 256 values. Received: dynamic.")
        checked(
            TrainingSettings,
            **{"seed": seed, "clip_norm": clip_norm, "kl_warmup_epochs": kl_warmup_epochs, "edge_cost": edge_cost},
            **{"structure_epochs": structure_epochs, "final_temperature": final_temperature},
            on_nonfinite=on_nonfinite,
        )
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name):
                raise ValueError(f"{name} must be None: the loss is -ELBO, in nats. Received: {kwargs[name]}.")
        optimizer = typing.cast(keras.optimizers.Optimizer, keras.optimizers.get(optimizer))
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor:
            raise ValueError(f"optimizer must not scale the loss, which is float32. Received: {optimizer.name}.")
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "optimizer must learn at every step: the draws follow its count of steps. "
                f"Received: {optimizer.name} with gradient_accumulation_steps={optimizer.gradient_accumulation_steps}."
            )
        if not optimizer.built:
            # Decay would pull a gate to 1/2. Keras does not save this with an optimizer, so it is said here.
            without_decay(optimizer, ["scaled_logits", "bias", "component", "gamma", "beta"])
        without_gradient_sum(optimizer)  # `_step` sums before it clips
        self.objective = Objective(
            *(seed, binarization, clip_norm, kl_warmup_epochs, structure_epochs, final_temperature, edge_cost),
            on_nonfinite,
        )
        if not jit_compile:
            self.compiled_part = "nothing"
        elif tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self.compiled_part = "gradients"  # XLA has no collectives on a CPU
        else:
            self.compiled_part = "loop" if self.loops_can_be_compiled else "step"
        super().compile(optimizer=optimizer, jit_compile=self.compiled_part == "loop", **kwargs)

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        optimizer = keras.saving.serialize_keras_object(self.optimizer)
        return {"optimizer": optimizer, **self.objective._asdict(), "jit_compile": self.compiled_part != "nothing"}

    def compile_from_config(self, config: dict) -> None:
        self.compile(**config | {"optimizer": keras.saving.deserialize_keras_object(config["optimizer"])})
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step on images [B, ...]; or on a launch of `data.training_launches`, one step on each of its batches.

        A launch of a model whose loops can be compiled is one XLA program: its loop keeps the weights in place, and is
        entered once.
        """
        x, num_steps, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, weight, step = images_of(x), _by_image(weight), self._program(self._step, "step")
        # What may stand beside a batch is labels: a single one is no number of steps.
        is_one = num_steps is None or not tf.is_tensor(num_steps) or num_steps.shape.rank != 0
        if is_one or (self.built and tf.TensorShape(x.shape).rank != 2 + len(self.image_shape)):
            step(self._sized(x), weight)
        else:
            tf.while_loop(lambda i: i < num_steps, lambda i: (step(x[i], None), i + 1)[1:], [0])
        if self.gates.fixed is not None:
            return self._shown()
        return self._shown(temperature=tf.convert_to_tensor(self.temperature))

    def _program(self, function, *parts):
        """`function`, as an XLA program of its own if one of `parts` is what is compiled."""
        if self.compiled_part not in parts:
            return function
        compiled = tf.function(function, jit_compile=True, autograph=False)
        if self.compiled_part == "step":
            return compiled
        # Identities are tensors that know their device, which `tf.distribute` needs.
        return lambda *arguments: tf.nest.map_structure(tf.identity, compiled(*arguments))

    def _sized(self, x):
        """Images of a data set, which may not say of what size they are."""
        is_open = self.built and tf.is_tensor(x) and (x.shape.rank is None or None in x.shape[1:])
        return tf.ensure_shape(x, [None, *self.image_shape]) if is_open else x

    def _step(self, x, weight):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        gradients, values, num_bad_pixels = self._program(self._gradients, "gradients")(x, weight, step)
        self.bad_pixels.update_state(num_bad_pixels)
        if self._training_pixels != "binary" and x.dtype == "uint8":
            self.grey_images.update_state(tf.shape(x)[0])
            self.bright_pixels.update_state(_sum(tf.cast(x > 1, tf.float32)))
        shares = tf.concat([self._share_bad(values), [num_bad_pixels]], axis=0)
        replica: typing.Any = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradients, shares = replica.all_reduce(tf.distribute.ReduceOp.MEAN, (gradients, shares))
        norm = global_norm(gradients)
        if self.objective.clip_norm:
            [scale], _ = tf.clip_by_global_norm([tf.ones([])], self.objective.clip_norm, norm)
            gradients = [gradient * tf.cast(scale, gradient.dtype) for gradient in gradients]
        values = self._with_norm(values, norm)
        is_bad = tf.concat([shares[:-1] > 0.0, [tf.logical_not(tf.math.is_finite(norm))]], axis=0)
        self.nonfinite_steps.update_state(is_bad, step)
        is_bad = tf.reduce_any(is_bad) | (shares[-1] > 0.0)
        if self.objective.on_nonfinite == "skip":
            tf.cond(is_bad, lambda: None, lambda: self._learn(gradients, values, weight))
        else:  # A condition would cost a twentieth of a step. Weights stay numbers until `check_steps` ends `fit`.
            self._learn([tf.where(is_bad, tf.zeros([], part.dtype), part) for part in gradients], values, weight)

    def _gradients(self, x, weight, step):
        """Of the loss, for each trainable variable; the `_values` that go with them; and how many pixels are bad."""
        objective = self.objective
        num_bad_pixels = self._num_bad_pixels(x, self._training_pixels)
        seed = tf.random.fold_in([objective.seed, 0], step)
        if objective.binarization == "dynamic":
            x = binarization.draw(x, tf.random.fold_in([objective.seed, 6], step))
        with tf.GradientTape() as tape:
            terms = self.terms(x, self.encoded(x, training=True), seed, 1, training=True)
            elbo = terms.elbo(tf.convert_to_tensor(self.kl_weight))
            loss = -tf.reduce_mean(elbo if weight is None else elbo * weight)
            # What the layers of own networks add: regularisers, `add_loss`. As in Keras, whatever their shape and type.
            loss += sum(tf.reduce_sum(tf.cast(part, tf.float32)) for part in self.losses)
            if self.gates.fixed is None:
                # Not from the start: an edge is worth nothing before its network has learned to use it.
                price = objective.edge_cost * (1.0 - tf.convert_to_tensor(self.temperature))
                loss += price * tf.reduce_sum(self.gates.probs())
        weights = [v.value for v in self.trainable_variables]
        gradients = [
            tf.zeros_like(of_one) if gradient is None else tf.convert_to_tensor(gradient)  # an embedding's is sparse
            for of_one, gradient in zip(weights, tape.gradient(loss, weights), strict=True)
        ]
        return gradients, self._values(terms), num_bad_pixels

    @staticmethod
    def _num_bad_pixels(x, pixels):
        return _sum(tf.cast(binarization.impossible(x, pixels), tf.float32))

    def _learn(self, gradients, values, weight):
        self.optimizer.apply(gradients, self.trainable_variables)
        self.term_means.update_state(values, weight)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, weight = self._sized(images_of(x)), _by_image(weight)
        so_far, num = tf.cast(self.evaluated_images.total.value, tf.int32), tf.shape(x)[0]  # by this replica
        self.evaluated_images.update_state(tf.cast(num, tf.float32))
        self.bad_pixels.update_state(self._num_bad_pixels(x, self.pixels))
        first_image = so_far * tf.distribute.get_strategy().num_replicas_in_sync
        values, innovations = self._program(self._validate, "step", "gradients")(x, first_image)
        self.term_means.update_state(values, weight)
        self.active_units.update_state(innovations, weight)
        return self._shown(active_units=self.active_units.result())

    def _validate(self, x, first_image):
        features = self.encoded(x)
        terms = self.terms(x, features, [self.objective.seed, 1], 1, first=(0, first_image))
        values = self._with_norm(self._values(terms), 0.0)
        return values, self.codes_and_innovations(features)[1]

    def predict_step(self, data) -> tf.Tensor:
        x = self._sized(images_of(keras.utils.unpack_x_y_sample_weight(data)[0]))
        self.bad_pixels_predicted.update_state(self._num_bad_pixels(x, self.pixels))
        return self.codes_and_innovations(self.encoded(x))[0]

    def _shown(self, **logs):
        """What Keras shows: some of `term_means`, and `logs`."""
        means = self.term_means.result()
        logs |= {name: means[name] for name in ("elbo", "reconstruction", "kl")} | {"loss": -means["elbo"]}
        if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            # Keras takes the mean over an axis of what workers return (keras issue 20585).
            logs = {name: value[tf.newaxis] for name, value in logs.items()}
        return logs

    def _values(self, terms: Terms) -> tf.Tensor:
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


def global_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    """The square root of the sum of all squares, as `tf.linalg.global_norm`."""
    return tf.sqrt(tf.add_n([_sum(tf.cast(g, tf.float32) ** 2) for g in gradients]))


def _by_image(weight):
    """Weights of images as [B], float32, in whatever type and shape Keras passes them on."""
    return None if weight is None else tf.reshape(tf.cast(weight, tf.float32), [-1])


def _sum(x):
    # By a product with ones: XLA on a CPU takes eight times as long for full sums.
    width = x.shape[-1] if x.shape.rank else 1
    return tf.reduce_sum(tf.linalg.matvec(tf.reshape(x, [-1, width]), tf.ones([width])))
