"""Activations against Keras's and float64; stacked layers against slices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.layers.stacked import StackedDense, at, dense_network, elu, softplus

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


def test_dense_network_of_one_and_of_all_in_float64():
    rng = np.random.default_rng(0)
    kernels, biases = (
        [rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 5, 2))],
        [rng.normal(size=(3, 1, w)) for w in (5, 2)],
    )
    weights = [tuple(map(as_float, pair)) for pair in zip(kernels, biases, strict=True)]
    x = rng.normal(size=(6, 4))
    together = dense_network(weights, as_float(x)[None])
    for n in range(3):
        hidden = x @ kernels[0][n] + biases[0][n]
        expected = np.where(hidden > 0, hidden, np.expm1(hidden)) @ kernels[1][n] + biases[1][n]
        np.testing.assert_allclose(together[n], expected, atol=1e-5)
        np.testing.assert_allclose(dense_network(weights, as_float(x), n), expected, atol=1e-5)
        np.testing.assert_allclose(dense_network(weights, as_float([x, -x]), n)[0], expected, atol=1e-5)


@pytest.mark.parametrize("bias_rows", [1, 6])
def test_gradients_of_one_network_in_a_loop_are_those_of_the_slices(bias_rows):
    """Through `at` and `dense_network` in a tf.while_loop, against autodiff of plain slices."""
    rng = np.random.default_rng(1)
    shapes = (3, 4, 4), (3, bias_rows, 4), (3, 4, 2), (3, 1, 2), (2, 6, 4), (3, 2, 6, 2)
    tensors = [as_float(rng.normal(size=shape)) for shape in shapes]

    def plain(k_0, b_0, k_1, b_1, x, scale):
        outputs = [(elu(x @ k_0[n] + b_0[n]) @ k_1[n] + b_1[n]) * scale[n] for n in range(3)]
        return tf.add_n([tf.reduce_sum(tf.sin(y)) for y in outputs])

    def looped(k_0, b_0, k_1, b_1, x, scale):
        def add(n, total):
            y = dense_network([(k_0, b_0), (k_1, b_1)], x, n) * at(scale, n)
            return n + 1, total + tf.reduce_sum(tf.sin(y))

        return tf.while_loop(lambda n, _: n < 3, add, (0, 0.0), maximum_iterations=3)[1]

    compiled = tf.function(lambda *tensors: gradients(looped, tensors), jit_compile=True)
    for one, other in zip(compiled(*tensors), gradients(plain, tensors), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def gradients(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = function(*tensors)
    return tape.gradient(y, tensors)


def as_float(x):
    return tf.constant(x, tf.float32)
