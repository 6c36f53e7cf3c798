"""A model that is trained a little further with one graph or another: what edges are measured with."""

import math
import typing

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf import data
from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.fields import checked
from tf_ldiaf.model.given import images_of
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.structure.graphs import check_built, with_edges

REFIT_STEPS = 400
_HELD_OUT_FRACTION = 0.2
_STEPS_PER_LAUNCH = 25
_EVALUATION_BATCH = 500


class Refits:
    """Trainings of a copy of a model, always from the same weights and with the same images and draws.

    Args:
        model, x, held_out, num_steps, batch_size, learning_rate, weight_decay, binarization, num_samples, seed,
            jit_compile: as of `edge_worth`, which says what is raised, too.
    """

    def __init__(
        self,
        model: LDIAF,
        x: np.ndarray | data.Records,
        held_out: np.ndarray | None = None,
        num_steps: int = REFIT_STEPS,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        binarization: str = "none",
        num_samples: int = 10,
        seed: int = 0,
        jit_compile: bool = True,
    ):
        if binarization == "dynamic" and held_out is None and not isinstance(x, data.Records):
            raise ValueError("held_out must be images of 0 and 1 where x is grey. Received: None.")
        rates = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        checked(TrainingSettings, batch_size=batch_size, **rates, seed=seed)
        check_counts(num_steps=num_steps, num_samples=num_samples)
        check_built(model)
        if model.gates.fixed is None and not model.gates.open.numpy().any():
            raise ValueError(
                "model must have edges that are given, or that have been learned. Received: one whose gates are still "
                "shut, as they are in the first half of `structure_epochs`."
            )
        x, held_out = apart(x, held_out, seed)
        self.edges, self.held_out = model.edges, held_out
        self.model = copy = with_edges(model, model.edges)
        copy.check_images(held_out)
        schedule: typing.Any = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
        copy.compile(optimizer, seed=seed, binarization=binarization, kl_warmup_epochs=0, jit_compile=jit_compile)
        if isinstance(x, np.ndarray):
            copy.check_training_images(x)
        copy.optimizer.build(copy.trainable_variables)
        self._bounds = copy.compiled_bounds(num_samples, seed, jit_compile)
        others = [*copy.encoder.non_trainable_variables, *copy.decoder.non_trainable_variables]  # such as moving means
        self._variables = [*copy.trainable_variables, *others, *copy.optimizer.variables]
        self._num_weights = len(self._variables) - len(copy.optimizer.variables)
        self._start = [variable.numpy() for variable in self._variables]
        self._batches = data.training_launches(x, batch_size=batch_size, seed=seed, steps_per_launch=_STEPS_PER_LAUNCH)
        self._num_launches = num_launches(x, batch_size, _STEPS_PER_LAUNCH, num_steps)
        self._whole: np.ndarray | None = None

    def worth(self, edge: tuple[int, int]) -> tuple[float, float]:
        """What the graph loses without one of its edges (parent, child): nats per image, and the standard error."""
        if self._whole is None:
            self._whole = self.elbo(self.edges)
        mean, stderr = mean_and_stderr(self._whole - self.elbo([other for other in self.edges if other != edge]))
        return float(mean), float(stderr)

    def remove(self, edge: tuple[int, int]) -> None:
        """Goes on from here with the graph without an edge, and the weights after training without it."""
        self.edges = [other for other in self.edges if other != edge]
        self._train(self.edges)
        weights = self._variables[: self._num_weights]
        self._start[: self._num_weights] = [variable.numpy() for variable in weights]
        self._whole = None

    def _train(self, edges):
        for variable, value in zip(self._variables, self._start, strict=True):
            variable.assign(value)
        self.model.gates.fix(edges)
        self.model.fit(self._batches, steps_per_epoch=self._num_launches, verbose=0)

    def elbo(self, edges: list[tuple[int, int]]) -> np.ndarray:
        """The ELBO of each held-out image after training with `edges`: [n], nats."""
        self._train(edges)
        size, parts = data.evaluation_batch_size(self.held_out, _EVALUATION_BATCH), []
        for i, (x, _, _) in enumerate(data.evaluation_batches(self.held_out, _EVALUATION_BATCH)):
            parts.append(self._bounds(x, tf.constant(i * size))["elbo"].numpy())
        return np.concatenate(parts)[: len(self.held_out)].astype("float64")


def check_counts(**counts: int) -> None:
    """Says if one of these arguments is no number of things.

    Raises:
        ValueError: it is not.
    """
    for name, count in counts.items():
        if not (isinstance(count, int | np.integer) and count >= 1):
            raise ValueError(f"{name} must be at least 1, a whole number. Received: {count}.")


def as_images(x, name: str = "x") -> np.ndarray:
    """Images at hand, as an array.

    Raises:
        ValueError: a data set or other things, of which no array can be made at once; it speaks of `name`.
    """
    found = images_of(x) if isinstance(x, dict | tf.Tensor) else x
    if not hasattr(found, "shape"):
        raise ValueError(f"{name} must be an array of images. Received: a {type(found).__name__}.")
    return np.asarray(found)


def apart(x, held_out, seed: int) -> tuple[typing.Any, np.ndarray]:
    """Images to train on, and to measure on: if none are given for that, a random fifth of x.

    Raises:
        ValueError: x is streamed and `held_out` is None; or fewer than one image and two.
    """
    x = x if isinstance(x, data.Records) else as_images(x)
    held_out = None if held_out is None else as_images(held_out, "held_out")
    if held_out is None:
        if isinstance(x, data.Records):
            raise ValueError("held_out must be images where x is streamed. Received: None.")
        order = np.random.default_rng(seed).permutation(len(x))
        num = max(1, round(_HELD_OUT_FRACTION * len(x)))
        x, held_out = x[np.sort(order[num:])], x[np.sort(order[:num])]
    if not len(x) or len(held_out) < 2:
        raise ValueError(
            "x and held_out must have an image to train on, and two to measure an error with. "
            f"Received: {len(x)} and {len(held_out)}."
        )
    return x, held_out


def num_launches(x, batch_size: int, steps_per_launch: int, num_steps: int) -> int:
    """Of `data.training_launches`, with at least `num_steps` steps in all."""
    per_launch = data.steps_per_epoch(x, batch_size) / data.launches_per_epoch(x, batch_size, steps_per_launch)
    return math.ceil(num_steps / per_launch)


def mean_and_stderr(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of values for each image, [n, ...]: their mean, and its standard error; NaN of one image."""
    values = np.asarray(values, "float64")
    if len(values) == 1:
        return values[0], values[0] * np.nan
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5
