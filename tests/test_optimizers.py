"""Optimizers: each setting has the effect that its name says."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.config import Config
from tf_ldiaf.training.optimizers import make_optimizer

GRADIENTS = np.random.default_rng(0).normal(size=(6, 5)).astype("float32") * [[0.1], [10], [1], [0.01], [30], [1]]
GRADIENTS = GRADIENTS.astype("float32")


def updates(optimizer, gradients):
    """The path of a variable pair from (1, 1, 1), (1, 1) under a sequence of gradients."""
    variables = [keras.Variable(np.ones(3, "float32")), keras.Variable(np.ones(2, "float32"))]
    path = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient[:3]), tf.constant(gradient[3:])], variables)
        path.append(np.concatenate([v.numpy() for v in variables]))
    return np.array(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", keras.optimizers.Adam), ("adamw", keras.optimizers.AdamW), ("adamax", keras.optimizers.Adamax)],
)
def test_each_optimizer_is_keras_own_with_the_learning_rate(name, kind):
    config = Config(optimizer=name, learning_rate=0.01, clip_norm=0, learning_rate_schedule="constant")
    optimizer = make_optimizer(config, num_steps=100)
    assert type(optimizer) is kind
    reference = kind(0.01, weight_decay=0.0) if name == "adamw" else kind(0.01)
    np.testing.assert_array_equal(updates(optimizer, GRADIENTS), updates(reference, GRADIENTS))


def test_weight_decay_shrinks_weights_without_gradient():
    config = Config(optimizer="adamw", weight_decay=0.5, learning_rate=0.1, learning_rate_schedule="constant")
    path = updates(make_optimizer(config, num_steps=3), np.zeros((3, 5), "float32"))
    np.testing.assert_allclose(path, np.repeat([[0.95], [0.95**2], [0.95**3]], 5, axis=1), rtol=1e-5)


def test_adamw_without_weight_decay_is_an_optimizer():
    assert make_optimizer(Config(optimizer="adamw"), 10).weight_decay == 0


def test_cosine_falls_to_zero_at_the_end_and_constant_does_not():
    cosine = make_optimizer(Config(learning_rate=0.4), num_steps=6)
    rates = []
    variable = keras.Variable(np.ones(3, "float32"))
    for gradient in GRADIENTS:
        rates.append(float(cosine.learning_rate))
        cosine.apply([tf.constant(gradient[:3])], [variable])
    np.testing.assert_allclose(rates, 0.2 * (1 + np.cos(np.pi * np.arange(6) / 6)), rtol=1e-5)
    assert float(cosine.learning_rate) == pytest.approx(0, abs=1e-7)
    before = variable.numpy()
    cosine.apply([tf.ones(3)], [variable])
    np.testing.assert_allclose(variable.numpy(), before, atol=1e-6)
    constant = make_optimizer(Config(learning_rate=0.4, learning_rate_schedule="constant"), num_steps=6)
    updates(constant, GRADIENTS)
    assert float(constant.learning_rate) == pytest.approx(0.4)


def test_ema_is_the_hand_computed_average_of_the_weights():
    optimizer = make_optimizer(Config(ema_decay=0.8, learning_rate=0.1, learning_rate_schedule="constant"), num_steps=6)
    path = updates(optimizer, GRADIENTS)
    average = path[0]
    for weights in path[1:]:
        average = 0.8 * average + 0.2 * weights
    optimizer.finalize_variable_values(optimizer._trainable_variables)
    averaged = np.concatenate([v.numpy() for v in optimizer._trainable_variables])
    np.testing.assert_allclose(averaged, average, rtol=1e-5)
    assert not make_optimizer(Config(ema_decay=0), num_steps=6).use_ema
