"""How Keras fits and evaluates a bound: the training step, over one device or several."""

import typing

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.data import batches, binarization
from tf_ldiaf.errors import DataError, NonFiniteError
from tf_ldiaf.execution.private import WithoutSymbolicBuild, without_gradient_sum
from tf_ldiaf.fields import checked
from tf_ldiaf.model.callbacks import EpochSchedules, Watch
from tf_ldiaf.model.metrics import ActiveUnits, NonFiniteSteps, TermMeans, Total
from tf_ldiaf.probability.bounds import Terms

# Images are checked so many at a time: the check's arrays stay small.
_CHECKED_AT_ONCE = 10_000


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


class Trainer(WithoutSymbolicBuild, keras.Model):
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
            optimizer: a Keras optimizer or its name. Weight decay is for kernels only.
            seed: everything random in the steps is a function of it and of the step's number.
            binarization: "dynamic" if training images are grey, uint8 in 0-255 or float in 0-1: each step draws its
                images of 0 and 1 from them. Otherwise they are 0 and 1 already.
            clip_norm: largest global norm of the gradient; 0: it is not clipped.
            kl_warmup_epochs: epochs over which the weight of the KL term rises to 1.
            structure_epochs: epochs over which the gates' temperature falls from 1, if gates are learned.
            final_temperature: to what it falls.
            edge_cost: price of an open gate while gates are learned, nats per image. It comes in as the temperature
                falls.
            on_nonfinite: what a step with a term that is infinite or not a number does. "stop": it ends `fit` with a
                `NonFiniteError`. "skip": it is left out and counted.
            jit_compile: whether XLA compiles the steps.
            kwargs: Keras's.
        """
        if binarization not in ("none", "threshold", "dynamic"):
            raise ValueError(f"binarization must be dynamic or none. Received: {binarization}.")
        checked(
            TrainingSettings,
            **{"seed": seed, "clip_norm": clip_norm, "kl_warmup_epochs": kl_warmup_epochs, "edge_cost": edge_cost},
            **{"structure_epochs": structure_epochs, "final_temperature": final_temperature},
            on_nonfinite=on_nonfinite,
        )
        optimizer = typing.cast(keras.optimizers.Optimizer, keras.optimizers.get(optimizer))
        if not optimizer.built:
            # Decay would pull a gate to 1/2. Keras does not save this with an optimizer, so it is said here.
            optimizer.exclude_from_weight_decay(var_names=["scaled_logits", "bias", "component"])
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
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: typing.Any = None,
        validation_split: float = 0.0,
        validation_data=None,
        shuffle: bool = True,
        **kwargs,
    ) -> keras.callbacks.History:
        """As Keras's. The schedules of KL weight and temperature go on where the last `fit` ended.

        Of an array each epoch's order is a function of the seed and of the epochs done before; what does not fill a
        batch is left out of that epoch. Labels are ignored. Averaged weights are what is validated.

        Raises:
            DataError: pixels that the model cannot have.
            NonFiniteError: a term or the gradient was infinite or not a number, and `on_nonfinite` is "stop". No
                gradient of such a step, or of one with pixels that the model cannot have, has been learned from.
        """
        x = _images_of(x)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size}.")
        others = kwargs.keys() & {"sample_weight", "class_weight", "steps_per_epoch"}
        is_plain = isinstance(x, np.ndarray) and shuffle and not others
        if isinstance(x, np.ndarray):
            self._check_array(x, self._takes_grey)
        if is_plain and validation_split and validation_data is None:
            num = int(len(x) * (1.0 - validation_split))
            x, validation_data, validation_split = x[:num], x[num:], 0.0
        if is_plain and self.distribute_strategy.num_replicas_in_sync == 1 and self.compiled:
            kwargs.setdefault("validation_batch_size", batch_size)
            order = {"batch_size": batch_size or 32, "seed": self.objective.seed, "epoch": self.epochs_done.value}
            x, y, batch_size, shuffle = batches.epoch_batches(x, **order), None, None, False
        if self.built and self.compiled:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)  # else the first step is traced twice
        averaging = [keras.callbacks.SwapEMAWeights()] if self.compiled and self.optimizer.use_ema else []
        # Averaging comes last, so that in `on_test_end` the other callbacks still see the averaged weights.
        callbacks = [EpochSchedules(), *keras.tree.flatten(callbacks or []), Watch(), *averaging]
        shuffle = shuffle and not isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset))
        kwargs |= {"validation_split": validation_split, "validation_data": validation_data, "shuffle": shuffle}
        try:
            return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)
        finally:
            for callback in averaging:
                callback.on_test_end()  # if a validation was broken off, averaged weights are in the model

    def evaluate(self, x=None, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`.

        Raises:
            DataError: pixels that are not 0 or 1.
        """
        x = _images_of(x)
        if isinstance(x, np.ndarray):
            self._check_array(x)
        logs = super().evaluate(x, *args, return_dict=True, **kwargs)
        self.check_pixels()
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict(self, x, *args, **kwargs) -> np.ndarray:
        """The code of each image, as `encode`: [n, N, D].

        Raises:
            DataError: pixels that are not 0 or 1.
        """
        x = _images_of(x)
        if isinstance(x, np.ndarray):
            self._check_array(x)
        self.bad_pixels_predicted.reset_state()
        codes: typing.Any = super().predict(x, *args, **kwargs)
        self.check_pixels(counted=self.bad_pixels_predicted)
        return codes

    def train_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `fit`."""
        self._check_array(np.asarray(_images_of(x)), self._takes_grey)
        logs = super().train_on_batch(x, *args, return_dict=True, **kwargs)
        self.check_steps()
        return logs if return_dict else [logs[name] for name in self.metrics_names if name in logs]

    def test_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `evaluate`."""
        self._check_array(np.asarray(_images_of(x)))
        logs = super().test_on_batch(x, *args, return_dict=True, **kwargs)
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict_on_batch(self, x) -> np.ndarray:
        """The code of each image; errors as of `predict`."""
        self._check_array(np.asarray(_images_of(x)))
        return super().predict_on_batch(x)  # pyright: ignore[reportReturnType]

    @property
    def metrics_names(self) -> list[str]:
        return ["loss", "elbo", "reconstruction", "kl", "active_units"]

    @property
    def _takes_grey(self):
        return self.compiled and self.objective.binarization == "dynamic"

    @staticmethod
    def _check_array(x, is_grey=False):
        if not x.ndim or not len(x):
            raise DataError(f"`x` must have at least one image. Received: an array of shape {x.shape}.")
        for start in range(0, len(x), _CHECKED_AT_ONCE):
            part = x[start : start + _CHECKED_AT_ONCE]
            impossible = binarization.impossible(part, is_grey)
            if impossible.any():
                first = start + int(np.argmax(impossible.reshape(len(part), -1).any(axis=1)))
                found = part[impossible].flat[0]
                raise binarization.impossible_pixel(is_grey, f"{found} in image {first}")

    def check_pixels(self, is_grey: bool = False, counted: Total | None = None) -> None:
        """Says if `train_step` or `test_step` was given pixels that the model cannot have; or what `counted` them.

        Raises:
            DataError: it was.
        """
        num = int((counted or self.bad_pixels).result())
        if num:
            raise binarization.impossible_pixel(is_grey, f"{num} others")

    def check_steps(self) -> None:
        """Says what was wrong with the training steps of this epoch.

        Raises:
            DataError: their pixels.
            NonFiniteError: a term that was infinite or not a number, unless such steps are to be skipped.
        """
        self.check_pixels(self._takes_grey)
        first = self.nonfinite_steps.first_terms() if self.objective.on_nonfinite == "stop" else None
        if first is not None:
            step, terms = first
            raise NonFiniteError(
                "`learning_rate` must keep training finite. Received: one with which "
                f"{', '.join(terms)} in step {step} of the training were not; "
                "`on_nonfinite=skip` leaves such steps out."
            )

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """One step on images [B, ...]; or on a launch of `data.training_launches`, one step on each of its batches.

        A launch of a model whose loops can be compiled is one XLA program: its loop keeps the weights in place, and is
        entered once.
        """
        x, num_steps, weight = keras.utils.unpack_x_y_sample_weight(data)
        x, step = _images_of(x), self._program(self._step, "step")
        if num_steps is None or not tf.is_tensor(num_steps) or num_steps.shape.rank:
            step(x, weight)
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

    def _step(self, x, weight):
        step = tf.cast(self.optimizer.iterations, tf.int32)
        gradients, values, num_bad_pixels = self._program(self._gradients, "gradients")(x, weight, step)
        self.bad_pixels.update_state(num_bad_pixels)
        shares = tf.concat([self._share_bad(values), [num_bad_pixels]], axis=0)
        replica: typing.Any = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            gradients, shares = replica.all_reduce(tf.distribute.ReduceOp.MEAN, (gradients, shares))
        norm = global_norm(gradients)
        if self.objective.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.objective.clip_norm, norm)
        values = self._with_norm(values, norm)
        is_bad = tf.concat([shares[:-1] > 0.0, [tf.logical_not(tf.math.is_finite(norm))]], axis=0)
        self.nonfinite_steps.update_state(is_bad, step)
        is_bad = tf.reduce_any(is_bad) | (shares[-1] > 0.0)
        if self.objective.on_nonfinite == "skip":
            tf.cond(is_bad, lambda: None, lambda: self._learn(gradients, values, weight))
        else:  # A condition would cost a twentieth of a step. Weights stay numbers until `check_steps` ends `fit`.
            self._learn([tf.where(is_bad, 0.0, gradient) for gradient in gradients], values, weight)

    def _gradients(self, x, weight, step):
        """Of the loss, for each trainable variable; the `_values` that go with them; and how many pixels are bad."""
        objective = self.objective
        num_bad_pixels = self._num_bad_pixels(x, self._takes_grey)
        seed = tf.random.fold_in([objective.seed, 0], step)
        if objective.binarization == "dynamic":
            x = binarization.draw(x, tf.random.fold_in([objective.seed, 6], step))
        with tf.GradientTape() as tape:
            terms = self.terms(x, self.encoded(x), seed, 1, training=True)
            elbo = terms.elbo(tf.convert_to_tensor(self.kl_weight))
            loss = -tf.reduce_mean(elbo if weight is None else elbo * weight)
            if self.gates.fixed is None:
                # Not from the start: an edge is worth nothing before its network has learned to use it.
                price = objective.edge_cost * (1.0 - tf.convert_to_tensor(self.temperature))
                loss += price * tf.reduce_sum(self.gates.probs())
        gradients: typing.Any = tape.gradient(loss, [v.value for v in self.trainable_variables])
        return gradients, self._values(terms), num_bad_pixels

    @staticmethod
    def _num_bad_pixels(x, is_grey=False):
        return _sum(tf.cast(binarization.impossible(x, is_grey), tf.float32))

    def _learn(self, gradients, values, weight):
        self.optimizer.apply(gradients, self.trainable_variables)
        self.term_means.update_state(values, weight)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        x = _images_of(x)
        so_far, num = tf.cast(self.evaluated_images.total.value, tf.int32), tf.shape(x)[0]  # by this replica
        self.evaluated_images.update_state(tf.cast(num, tf.float32))
        self.bad_pixels.update_state(self._num_bad_pixels(x))
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
        x = _images_of(keras.utils.unpack_x_y_sample_weight(data)[0])
        self.bad_pixels_predicted.update_state(self._num_bad_pixels(x))
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
    return tf.sqrt(tf.add_n([_sum(g**2) for g in gradients]))


def _sum(x):
    # By a product with ones: XLA on a CPU takes eight times as long for full sums.
    return tf.reduce_sum(tf.linalg.matvec(tf.reshape(x, [-1, x.shape[-1]]), tf.ones(x.shape[-1:])))


def _images_of(x) -> typing.Any:
    """x, or the images of a batch of named parts; a tensor that is at hand becomes an array."""
    if isinstance(x, dict):
        if "image" not in x:
            raise DataError(f'`x` must be images, or have them as its part "image". Received: parts {sorted(x)}.')
        x = x["image"]
    is_at_hand = isinstance(x, tf.Tensor) and hasattr(x, "numpy")
    return np.asarray(x) if is_at_hand else x
