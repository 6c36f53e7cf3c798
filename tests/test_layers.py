"""Activations against Keras's and float64; stacked layers against slices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.layers import StackedDense, dense_network, elu, softplus

POINTS = np.concatenate([np.linspace(-100, 100, 4001), np.geomspace(1e-12, 1, 500), -np.geomspace(1e-12, 1, 500)])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("function", "value", "slope"),
    [
        (elu, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), lambda x: np.exp(np.minimum(x, 0))),
        (softplus, lambda x: np.logaddexp(0, x), lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_activation_and_its_gradient_in_float64(function, value, slope, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return y, tape.gradient(y, x)

    x = np.append(POINTS, 0.0).astype("float32")
    found, gradient = both(tf.constant(x))
    np.testing.assert_allclose(found, value(x.astype("float64")), rtol=1e-6, atol=1.2e-7)
    np.testing.assert_allclose(gradient, slope(x.astype("float64")), atol=1e-6)


def test_stacked_weights_under_a_repeated_mask():
    keras.utils.set_random_seed(0)
    layer = StackedDense([2, 2, 2, 2], 3, keras.initializers.HeNormal)
    layer.build()
    layer.bias.assign(np.arange(12.0).reshape(4, 1, 3))
    mask = np.arange(12).reshape(2, 2, 3) % 2
    kernel, bias = layer.weights_of(mask.astype("float32"))
    np.testing.assert_array_equal(kernel, layer.kernel.numpy() * np.tile(mask, (2, 1, 1)))
    np.testing.assert_array_equal(bias, layer.bias)
    np.testing.assert_array_equal(layer.weights_of()[0], layer.kernel)


def test_dense_network_of_one_and_of_many_in_float64():
    rng = np.random.default_rng(0)
    kernels, biases = (
        [rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5, 2))],
        [rng.normal(size=(3, 1, w)) for w in (5, 2)],
    )
    x = rng.normal(size=(6, 4))
    many = dense_network([tuple(map(as_float, pair)) for pair in zip(kernels, biases, strict=True)], as_float(x)[None])
    for n in range(3):
        hidden = x @ kernels[0][n] + biases[0][n]
        expected = np.where(hidden > 0, hidden, np.expm1(hidden)) @ kernels[1][n] + biases[1][n]
        one = [(as_float(kernel[n]), as_float(bias[n, 0])) for kernel, bias in zip(kernels, biases, strict=True)]
        np.testing.assert_allclose(many[n], expected, atol=1e-5)
        np.testing.assert_allclose(dense_network(one, as_float(x)), expected, atol=1e-5)
        np.testing.assert_allclose(dense_network(one, as_float([x, -x]))[0], expected, atol=1e-5)


def as_float(x):
    return tf.constant(x, tf.float32)
