"""How Keras fits and evaluates a model of images: what it is given, and what is wrong with it."""

import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.data import batches, binarization
from tf_ldiaf.errors import DataError, NonFiniteError
from tf_ldiaf.execution.private import WithoutSymbolicBuild
from tf_ldiaf.model.callbacks import AtEpochEnd, EpochSchedules, Watch
from tf_ldiaf.model.metrics import Total

# Images are checked so many at a time: the check's arrays stay small.
_CHECKED_AT_ONCE = 10_000


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
        x = images_of(x)
        if batch_size is not None and not (isinstance(batch_size, int | np.integer) and batch_size >= 1):
            raise ValueError(f"batch_size must be a whole number from 1 on. Received: {batch_size}.")
        others = [kwargs.get(name) for name in ("sample_weight", "class_weight", "steps_per_epoch")]
        is_plain = isinstance(x, np.ndarray) and shuffle and all(other is None for other in others)
        if isinstance(x, np.ndarray):
            self.check_training_images(x)
            if x.min() == x.max():
                warnings.warn(f"All pixels of `x` are {x.flat[0]}: there is nothing to learn.", stacklevel=2)
        self._make_variables(x)
        if self.built and not self.trainable_variables:
            raise ValueError("model must have weights that are trained. Received: one whose weights are all frozen.")
        if is_plain and validation_split and validation_data is None:
            num = int(len(x) * (1.0 - validation_split))
            if not 0 < num < len(x):
                raise ValueError(
                    "validation_split must leave an image to train on, and one to validate with. "
                    f"Received: {validation_split} of {len(x)} images."
                )
            x, validation_data, validation_split = x[:num], x[num:], 0.0
        if is_plain and self.distribute_strategy.num_replicas_in_sync == 1 and self.compiled:
            kwargs.setdefault("validation_batch_size", batch_size)
            order = {"batch_size": batch_size or 32, "seed": self.objective.seed, "epoch": self.epochs_done.value}
            x, y, batch_size, shuffle = batches.epoch_batches(x, **order), None, None, False
        weight = kwargs.get("sample_weight")
        if weight is not None and not np.isfinite(np.asarray(weight, "float64")).all():
            raise ValueError("sample_weight must be numbers. Received: NaN or infinity.")
        if isinstance(x, np.ndarray) and kwargs.get("class_weight") is None:
            y = _labels(x, y, weight)
        validation_data = _with_labels(validation_data)
        callbacks, averaging = self._with_averaging(keras.tree.flatten(callbacks or []))
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

    def _with_averaging(self, callbacks):
        """The callbacks, and those by which they see averaged weights where they have to; and what averages, if so.

        What is validated are averaged weights. So these are kept by whatever keeps the best weights.
        """
        averages = any(isinstance(each, keras.callbacks.SwapEMAWeights) for each in callbacks)
        if averages or not self.compiled or not self.optimizer.use_ema:
            return [*callbacks, Watch()], None
        averaging = keras.callbacks.SwapEMAWeights()
        best = [each for each in callbacks if _keeps_best(each)]
        others = [each for each in callbacks if not _keeps_best(each)]
        best = [AtEpochEnd(averaging.on_test_begin), *best, AtEpochEnd(averaging.on_test_end)] if best else []
        # Averaging comes last, so that in `on_test_end` the other callbacks still see the averaged weights.
        # Those that keep the best come first: weights that are swapped twice are rounded, and a backup must have these.
        return [*best, *others, Watch(), averaging], averaging

    def _make_variables(self, x):
        """Weights, and what the optimizer keeps of them: Keras traces the first step twice if they are made in it."""
        if isinstance(x, tf.data.Dataset):
            x = images_of(keras.utils.unpack_x_y_sample_weight(x.element_spec)[0])
            if not self.built and isinstance(x, tf.TensorSpec) and (not x.shape.rank or None in x.shape[1:]):
                raise DataError(
                    "`x` must have images of a size that is known, as `tf.ensure_shape` says it; or `model.build` must "
                    f"say it before. Received: batches of shape {x.shape}."
                )
        is_known = isinstance(x, np.ndarray) or (isinstance(x, tf.TensorSpec) and bool(x.shape.rank))
        sides = tuple(x.shape[1:]) if is_known else (None,)
        if (
            not self.built
            and is_known
            and not isinstance(x, np.ndarray)
            and None not in x.shape
            and is_one_image(x.shape)
        ):
            raise DataError(
                f"`x` must have batches of images: `x.batch(128)`. Received: elements of shape {x.shape}. If they are "
                "batches, call `model.build` with their shape first."
            )
        with self.distribute_strategy.scope():
            if not self.built and None not in sides:
                self.build((None, *sides))
            if self.built and self.compiled:
                self.optimizer.build(self.trainable_variables)

    def evaluate(self, x=None, y=None, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`.

        Raises:
            DataError: pixels that the model cannot have.
        """
        if self._is_fitted_now:
            self.check_steps()  # what went wrong is forgotten below
        x = images_of(x)
        if isinstance(x, np.ndarray):
            self.check_images(x)
            y = _labels(x, y, kwargs.get("sample_weight"))
        logs = super().evaluate(x, y, *args, return_dict=True, **kwargs)
        self.check_pixels()
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict(self, x, *args, **kwargs) -> np.ndarray:
        """The code of each image, as `encode`: [n, N, D].

        Raises:
            DataError: pixels that the model cannot have.
        """
        x = images_of(x)
        if isinstance(x, np.ndarray):
            self.check_images(x)
        self.bad_pixels_predicted.reset_state()
        codes: typing.Any = super().predict(x, *args, **kwargs)
        self.check_pixels(counted=self.bad_pixels_predicted)
        return codes

    def train_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `fit`."""
        x = np.asarray(images_of(x))
        self.check_training_images(x)
        logs = super().train_on_batch(x, *args, return_dict=True, **kwargs)
        self.check_steps()
        return logs if return_dict else [logs[name] for name in self.metrics_names if name in logs]

    def test_on_batch(self, x, *args, return_dict: bool = False, **kwargs) -> typing.Any:
        """As Keras's; a list is in the order of `metrics_names`. Errors as of `evaluate`."""
        x = np.asarray(images_of(x))
        self.check_images(x)
        logs = super().test_on_batch(x, *args, return_dict=True, **kwargs)
        return logs if return_dict else [logs[name] for name in self.metrics_names]

    def predict_on_batch(self, x) -> np.ndarray:
        """The code of each image; errors as of `predict`."""
        x = np.asarray(images_of(x))
        self.check_images(x)
        return super().predict_on_batch(x)  # pyright: ignore[reportReturnType]

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
        pixels = pixels or self.pixels
        if x.ndim < 2 and len(x.reshape(-1)):
            raise DataError(f"`x` must be images, [n, H, W] or [n, H, W, C]. Received: an array of shape {x.shape}.")
        if not x.ndim or not len(x):
            raise DataError(f"`x` must have at least one image. Received: an array of shape {x.shape}.")
        for start in range(0, len(x), _CHECKED_AT_ONCE):
            part = x[start : start + _CHECKED_AT_ONCE]
            impossible = binarization.impossible(part, pixels)
            if impossible.any():
                first = start + int(np.argmax(impossible.reshape(len(part), -1).any(axis=1)))
                found = part[impossible].flat[0]
                raise binarization.impossible_pixel(pixels, f"{found} in image {first}")
        if pixels == "grey" and x.dtype == "uint8" and x.max() == 1:
            raise binarization.faint()

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
            raise binarization.faint()
        first = self.nonfinite_steps.first_terms() if self.objective.on_nonfinite == "stop" else None
        if first is not None:
            step, terms = first
            raise NonFiniteError(
                "`learning_rate` must keep training finite. Received: one with which "
                f"{', '.join(terms)} in step {step} of the training were not; "
                "`on_nonfinite=skip` leaves such steps out."
            )


def _labels(x, y, weight):
    """Zeros in place of labels, which are ignored and may be of any type; as many, so that Keras counts them."""
    if y is None:
        return None if weight is None else np.zeros(len(x))  # Keras drops weights without labels
    return np.zeros(len(y))


def _with_labels(validation_data):
    """Validation data of arrays with the labels of `_labels`."""
    if isinstance(validation_data, tuple | list) and len(validation_data) in (2, 3):
        x, y, *weight = validation_data
        return x, _labels(x, y, weight or None), *weight
    return validation_data


def _keeps_best(callback):
    """Whether a callback of Keras keeps the weights of the epoch whose validation was best."""
    return isinstance(callback, keras.callbacks.EarlyStopping) or getattr(callback, "save_best_only", False)


def is_one_image(shape: tf.TensorShape) -> bool:
    """Whether an element that should be a batch looks like one image: [H * W], [H, W], or [H, W, C] of few channels."""
    sides = tuple(shape)
    return len(sides) <= 2 or (len(sides) == 3 and sides[2] in (1, 3, 4) and (sides[1] or 0) > 4)


def images_of(x) -> typing.Any:
    """x, or the images of a batch of named parts; a tensor that is at hand becomes an array."""
    if isinstance(x, dict):
        if "image" not in x:
            raise DataError(f'`x` must be images, or have them as its part "image". Received: parts {sorted(x)}.')
        x = x["image"]
    if isinstance(x, list | tuple):
        if len(x) != 1:
            raise DataError(
                "`x` must be one array of images, and labels another argument; `np.stack` makes one of single images. "
                f"Received: a {type(x).__name__} of {len(x)}."
            )
        [x] = x
    is_at_hand = isinstance(x, tf.Tensor) and hasattr(x, "numpy")
    return np.asarray(x) if is_at_hand else x
