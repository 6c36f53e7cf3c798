"""The dense networks: shapes, ranges, start, and where gradients go."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.networks import GaussianNetwork, mlp


def make(context_dim=0):
    keras.utils.set_random_seed(0)
    network = GaussianNetwork(2, (8, 5), context_dim)
    network.build((None, 6))
    return network


def test_mlp_is_elu_layers_and_then_a_linear_one(randomise):
    features, network = mlp([4, 3], "features"), mlp([4], "network", 3)
    features.build((None, 6))
    network.build((None, 6))
    randomise(features, 3.0)
    randomise(network, 3.0)
    x = tf.random.stateless_normal([200, 6], [0, 0])
    assert [layer.units for layer in network.layers] == [4, 3]
    assert np.min(features(x)) >= -1
    # A linear last layer: its output is affine in its own kernel and bias.
    once = network(x)
    network.layers[-1].set_weights([2 * w for w in network.layers[-1].get_weights()])
    np.testing.assert_allclose(network(x), 2 * once, rtol=1e-5)
    assert np.min(once) < -1


@pytest.mark.parametrize("context_dim", [0, 4])
def test_gaussian_network_shapes(context_dim):
    loc, scale, context = make(context_dim)(tf.ones([7, 6]))
    assert (loc.shape, scale.shape, context.shape) == ((7, 2), (7, 2), (7, context_dim))


def test_scale_starts_at_one_and_stays_positive_and_finite():
    network = make()
    loc, scale, _ = network(tf.zeros([1, 6]))
    np.testing.assert_array_equal(loc, 0)
    np.testing.assert_allclose(scale, 1, atol=2e-3)
    for extreme in (-1e6, 1e6):
        _, scale, _ = network(tf.fill([1, 6], extreme) * tf.constant([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
        assert np.isfinite(scale).all()
        assert np.min(scale) >= 1e-3


def test_gradient_reaches_every_weight():
    network = make(4)
    x = tf.random.stateless_normal([16, 6], [0, 0])
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_sum(part**2) for part in network(x))
    gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
    assert len(gradients) == 6
    assert all(g is not None and np.isfinite(g).all() and np.any(g) for g in gradients)


def test_serialisation_keeps_the_function():
    network = make(4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    copy.build((None, 6))
    copy.set_weights(network.get_weights())
    x = tf.random.stateless_normal([5, 6], [0, 0])
    for part, again in zip(network(x), copy(x), strict=True):
        np.testing.assert_array_equal(part, again)
