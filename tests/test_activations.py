"""Our ELU and softplus in float64, values and gradients, with XLA and without."""

import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.probability.activations import elu, softplus

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
