"""How Keras fits and evaluates a model of images."""

import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.data import batches, binarization
from tf_ldiaf.errors import NonFiniteError
from tf_ldiaf.execution.private import WithoutSymbolicBuild
from tf_ldiaf.model import given
from tf_ldiaf.model.callbacks import EpochSchedules, with_averaging
from tf_ldiaf.model.metrics import Total

_NUM_WEIGHTS = "num_weights"


class Fitted(WithoutSymbolicBuild, keras.Model):
    """A Keras model whose `fit`, `evaluate` and `predict` take images, and say so if they are not.

    A subclass has `pixels`, which says what its images are, an `objective`, the variable `epochs_done`, and `gates`.
    Its steps update the metrics `nonfinite_steps`, `bad_pixels`, `bad_pixels_predicted`, `grey_images` and
    `bright_pixels`.
    """

    pixels: binarization.Pixels
    kl_weight_of_schedule = 0.0  # which a callback may have replaced
    _is_fitted_now = False

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
        x, sample_weight = given.images_of(x), kwargs.get("sample_weight")
        given.check_batch_size(batch_size)
        given.check_weights(sample_weight)
        others = [sample_weight, kwargs.get("class_weight"), kwargs.get("steps_per_epoch")]
        is_plain = isinstance(x, np.ndarray) and shuffle and all(other is None for other in others)
        if isinstance(x, np.ndarray):
            self.check_training_images(x)
            given.check_light(x, self._training_pixels)
        self._make_variables(x)
        if self.built and not self.trainable_variables:
            raise ValueError("model must have weights that are trained. Received: one whose weights are all frozen.")
        if is_plain and validation_split and validation_data is None:
            x, validation_data = given.split(x, validation_split)
            validation_split = 0.0
        if is_plain and self.distribute_strategy.num_replicas_in_sync == 1 and self.compiled:
            kwargs.setdefault("validation_batch_size", batch_size)
            order = {"batch_size": batch_size or 32, "seed": self.objective.seed, "epoch": self.epochs_done.value}
            x, y, batch_size, shuffle = batches.epoch_batches(x, **order), None, None, False
        if isinstance(x, np.ndarray) and kwargs.get("class_weight") is None:
            y = given.labels(x, y, sample_weight)
        validation_data = given.with_labels(validation_data)
        averages = self.compiled and self.optimizer.use_ema
        callbacks, averaging = with_averaging(keras.tree.flatten(callbacks or []), averages)
        callbacks = [EpochSchedules(), *callbacks]
        shuffle = shuffle and not isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset))
        kwargs |= {"validation_split": validation_split, "validation_data": validation_data, "shuffle": shuffle}
        self._is_fitted_now = True
        try:
            history = super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)
        finally:
            self._is_fitted_now = False
            if averaging:
                averaging.on_test_end()  # if a validation was broken off, averaged weights are in the model
        if self.gates.fixed is None and not self.gates.open.numpy().any():
            warnings.warn(
                "All gates are still shut, as they are in the first half of `structure_epochs`: no edge is learned "
                "yet. So it is, too, if a callback restored weights of such an epoch.",
                stacklevel=2,
            )
        return history

    def _make_variables(self, x):
        """Weights, and what the optimizer keeps of them: Keras traces the first step twice if they are made in it."""
        shape = given.shape_of(x)
        with self.distribute_strategy.scope():
            if not self.built and shape is not None:
                if not isinstance(x, np.ndarray):
                    given.check_batches(shape)
                self.build((None, *shape[1:]))
            if self.built and self.compiled:
                self.optimizer.build(self.trainable_variables)

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight=None,
        *args,
        return_dict: bool = False,
        **kwargs,
    ) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`.

        Raises:
            DataError: pixels that the model cannot have.
        """
        if self._is_fitted_now:
            self.check_steps()  # what went wrong is forgotten below
        x = given.images_of(x)
        if isinstance(x, np.ndarray):
            self.check_images(x)
            y = given.labels(x, y, sample_weight)
        logs = super().evaluate(x, y, batch_size, verbose, sample_weight, *args, return_dict=True, **kwargs)
        self.check_pixels()
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict(self, x, *args, **kwargs) -> np.ndarray:
        """The code of each image, as `encode`: [n, N, D].

        Raises:
            DataError: pixels that the model cannot have.
        """
        x = given.images_of(x)
        if isinstance(x, np.ndarray):
            self.check_images(x)
        self.bad_pixels_predicted.reset_state()
        codes: typing.Any = super().predict(x, *args, **kwargs)
        self.check_pixels(counted=self.bad_pixels_predicted)
        return codes

    def train_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `fit`."""
        x = np.asarray(given.images_of(x))
        self.check_training_images(x)
        logs = super().train_on_batch(x, *args, return_dict=True, **kwargs)
        self.check_steps()
        return logs if return_dict else [logs[name] for name in self.metrics_names if name in logs]

    def test_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `evaluate`."""
        x = np.asarray(given.images_of(x))
        self.check_images(x)
        logs = super().test_on_batch(x, *args, return_dict=True, **kwargs)
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict_on_batch(self, x) -> np.ndarray:
        """The code of each image; errors as of `predict`."""
        x = np.asarray(given.images_of(x))
        self.check_images(x)
        return super().predict_on_batch(x)  # pyright: ignore[reportReturnType]

    def save_own_variables(self, store) -> None:
        """As Keras's, and how many weights there are in all: Keras does not notice that a file has more of them."""
        super().save_own_variables(store)
        store[_NUM_WEIGHTS] = np.array(len(self.weights))

    def load_own_variables(self, store) -> None:
        """As Keras's.

        Raises:
            ValueError: they are of a model with more or fewer weights.
        """
        own = {key: store[key] for key in store.keys()}  # noqa: SIM118, it is no dict
        num = own.pop(_NUM_WEIGHTS, None)
        super().load_own_variables(own)
        if num is not None and int(np.asarray(num)) != len(self.weights):
            raise ValueError(
                f"filepath must hold the weights of a model with the same parts, {len(self.weights)} arrays in all. "
                f"Received: {int(np.asarray(num))} arrays."
            )

    @property
    def metrics_names(self) -> list[str]:
        return ["loss", "elbo", "reconstruction", "kl", "active_units"]

    @property
    def _training_pixels(self) -> binarization.Pixels:
        return "grey" if self.compiled and self.objective.binarization == "dynamic" else self.pixels

    def check_training_images(self, x) -> None:
        """As `check_images`, of those that the model is fitted to."""
        self.check_images(x, self._training_pixels)

    def check_images(self, x, pixels: binarization.Pixels | None = None) -> None:
        """Says if x is no array of images with pixels that the model can have, or of others if `pixels` says so.

        Raises:
            DataError: it is not.
        """
        given.check_images(x, pixels or self.pixels)

    def check_pixels(self, pixels: binarization.Pixels | None = None, counted: Total | None = None) -> None:
        """Says if `train_step` or `test_step` was given pixels that the model cannot have; or what `counted` them.

        Raises:
            DataError: it was.
        """
        num = int((counted or self.bad_pixels).result())
        if num:
            raise binarization.impossible_pixel(pixels or self.pixels, f"{num} others")

    def check_steps(self, is_whole: bool = False) -> None:
        """Says what was wrong with the training steps of this epoch.

        Args:
            is_whole: whether the epoch is at its end.

        Raises:
            DataError: their pixels.
            NonFiniteError: a term that was infinite or not a number, unless such steps are to be skipped.
        """
        self.check_pixels(self._training_pixels)
        if is_whole and int(self.grey_images.result()) and not int(self.bright_pixels.result()):
            raise binarization.faint(self._training_pixels)
        first = self.nonfinite_steps.first_terms() if self.objective.on_nonfinite == "stop" else None
        if first is not None:
            step, terms = first
            raise NonFiniteError(
                "`learning_rate` must keep training finite. Received: one with which "
                f"{', '.join(terms)} in step {step} of the training were not; "
                "`on_nonfinite=skip` leaves such steps out."
            )
