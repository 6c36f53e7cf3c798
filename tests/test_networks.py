"""The networks: shapes, ranges, start, and where gradients go."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf.layers import GaussianNetworks, ResidualBlock
from tf_ldiaf.layers.encoders import make_decoder, make_encoder

INPUTS = [6, 3, 1]
elu = tf.nn.elu


def make(context_dim=0):
    keras.utils.set_random_seed(0)
    networks = GaussianNetworks(3, 2, (8, 5), context_dim, INPUTS)
    networks.build((None, 6))
    return networks


def test_without_channels_they_are_elu_layers_and_the_decoder_ends_in_a_linear_one(randomise):
    encoder, decoder = make_encoder([4, 3], (), (2, 3)), make_decoder([4], (), (1, 3))
    encoder.build((None, 6))
    decoder.build((None, 6))
    randomise(encoder, 3.0)
    randomise(decoder, 3.0)
    x = tf.random.stateless_normal([200, 6], [0, 0])
    assert [layer.units for layer in encoder.layers] == [4, 3]
    assert np.min(encoder(x)) >= -1
    # A linear last layer: its output is affine in its own kernel and bias.
    once = decoder(x)
    decoder.layers[-1].set_weights([2 * w for w in decoder.layers[-1].get_weights()])
    np.testing.assert_allclose(decoder(x), 2 * once, rtol=1e-5)
    assert np.min(once) < -1


def block(x, first, second):
    """x + convolution(elu(convolution(elu(x)))), by TensorFlow's own operation."""
    hidden = elu(tf.nn.conv2d(elu(x), first[0], 1, "SAME") + first[1])
    return x + tf.nn.conv2d(hidden, second[0], 1, "SAME") + second[1]


def weights_of(network, randomise):
    """Kernels and biases, in pairs and in the order of the layers, after they were randomised."""
    randomise(network, 0.5)
    weights = [w.numpy() for w in network.weights]
    return list(zip(weights[::2], weights[1::2], strict=True))


def test_an_encoder_begins_with_residual_convolutions(randomise):
    """At full, half and an eighth of 8 x 16 pixels of 2 channels: squares of 2, and of 4, are products by hand."""
    encoder = make_encoder([7], (4, 3, 0, 5), (8, 16, 2), residual_blocks=1)
    encoder.build((None, 256))
    full, first, second, half, third, fourth, eighth, fifth, sixth, dense = weights_of(encoder, randomise)
    pixels = tf.random.stateless_normal([2, 8, 16, 2], [0, 0])
    x = block(tf.nn.conv2d(pixels, full[0], 1, "SAME") + full[1], first, second)
    x = block(np.einsum("bricjd,ijde->brce", tf.reshape(x, [2, 4, 2, 8, 2, 4]), half[0]) + half[1], third, fourth)
    x = np.einsum("bricjd,ijde->brce", tf.reshape(x, [2, 1, 4, 2, 4, 3]), eighth[0]) + eighth[1]
    x = elu(block(x, fifth, sixth))
    expected = elu(tf.reshape(x, [2, -1]) @ dense[0] + dense[1])
    np.testing.assert_allclose(encoder(tf.reshape(pixels, [2, -1])), expected, rtol=1e-4, atol=1e-4)


def test_a_decoder_ends_in_residual_convolutions(randomise):
    """At full and at a quarter of 8 x 12 pixels, with 4 numbers for each pixel."""
    decoder = make_decoder([7], (3, 0, 5), (8, 12), residual_blocks=1, numbers_per_pixel=4)
    decoder.build((None, 6))
    dense, grid, first, second, quarter, *of_full, output = weights_of(decoder, randomise)
    z = tf.random.stateless_normal([2, 6], [0, 0])
    x = tf.reshape(elu(z @ dense[0] + dense[1]) @ grid[0] + grid[1], [2, 2, 3, 5])
    x = elu(block(x, first, second))
    x = np.einsum("brcd,ijed->bricje", x, quarter[0]).reshape(2, 8, 12, 3) + quarter[1]
    x = elu(block(x, *of_full))
    expected = x @ output[0][0, 0].T + output[1]
    np.testing.assert_allclose(decoder(z), tf.reshape(expected, [2, -1]), rtol=1e-4, atol=1e-4)


def test_a_residual_block_begins_as_the_identity_and_learns():
    layer, x = ResidualBlock(), tf.random.stateless_normal([2, 4, 4, 3], [0, 0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 3)
    np.testing.assert_array_equal(layer(x), x)
    assert tape.gradient(loss, layer.second.kernel.value).numpy().any()


@pytest.mark.parametrize("make_network", [make_encoder, make_decoder])
@pytest.mark.parametrize("shape", [(8, 9), (6, 8), (64,), (8, 8, 4, 2)])
def test_convolutions_need_sides_that_can_be_halved(shape, make_network):
    with pytest.raises(ValueError, match=r"channels at 3 resolutions need .* multiples of 4\. Received"):
        make_network([7], (0, 0, 3), shape)


@pytest.mark.parametrize("make_network", [make_encoder, make_decoder])
def test_the_last_resolution_needs_channels(make_network):
    with pytest.raises(ValueError, match=r"channels must not end in 0\. Received: \(3, 0\)"):
        make_network([7], (3, 0), (8, 8))


@pytest.mark.parametrize("context_dim", [0, 4])
@pytest.mark.parametrize("rows", [(7,), (2, 7)])
def test_gaussian_network_shapes(context_dim, rows):
    network = make(context_dim).of_one()
    for n in range(3):
        loc, scale, context = network(n, tf.ones([*rows, 6]))
        assert (loc.shape, scale.shape, context.shape) == ((*rows, 2), (*rows, 2), (*rows, context_dim))


def test_each_node_has_its_own_slice_of_the_stacked_weights(randomise):
    """In float64; alone, and all nodes at once."""
    networks = randomise(make(4))
    first, second, last = [(layer.kernel.numpy(), layer.bias.numpy()) for layer in networks.stack]
    x = np.random.default_rng(0).normal(size=(5, 6))
    together = networks(tf.constant(x, tf.float32))
    for n in range(3):
        hidden = x @ first[0][n] + first[1][n]
        hidden = np.where(hidden > 0, hidden, np.expm1(hidden)) @ second[0][n] + second[1][n]
        outputs = np.where(hidden > 0, hidden, np.expm1(hidden)) @ last[0][n] + last[1][n]
        for loc, scale, context in (networks.of_one()(n, tf.constant(x, tf.float32)), [part[n] for part in together]):
            np.testing.assert_allclose(loc, outputs[:, :2], atol=1e-5)
            np.testing.assert_allclose(scale, np.log1p((np.e - 1) * np.exp(outputs[:, 2:4])) + 1e-3, atol=1e-5)
            np.testing.assert_allclose(context, np.where(outputs > 0, outputs, np.expm1(outputs))[:, 4:], atol=1e-5)


def test_scale_starts_at_one_and_stays_positive_and_finite():
    network = make().of_one()
    loc, scale, _ = network(0, tf.zeros([1, 6]))
    np.testing.assert_array_equal(loc, 0)
    np.testing.assert_allclose(scale, 1, atol=2e-3)
    for extreme in (-1e6, 1e6):
        _, scale, _ = network(0, tf.fill([1, 6], extreme) * tf.constant([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
        assert np.isfinite(scale).all()
        assert np.min(scale) >= 1e-3


def test_gradient_reaches_every_weight_of_every_node():
    networks = make(4)
    with tf.GradientTape() as tape:
        parameters = networks(tf.random.stateless_normal([16, 6], [0, 0]))
        loss = sum(tf.reduce_sum(part**2) for part in parameters)
    gradients = tape.gradient(loss, [v.value for v in networks.trainable_variables])
    assert len(gradients) == 6
    assert all(np.isfinite(g).all() and np.any(g.numpy() != 0, axis=(1, 2)).all() for g in gradients)


def test_kernels_start_with_the_variance_of_their_own_fan_in():
    keras.utils.set_random_seed(0)
    networks = GaussianNetworks(2, 200, (300,), input_dims=[400, 100])
    networks.build((None, 400))
    kernel = networks.stack[0].kernel.numpy()
    # 30,000 and more draws: the standard error is below 0.5 %, and 3 % is six of them.
    assert kernel[0].std() == pytest.approx(np.sqrt(2 / 400), rel=0.03)
    assert kernel[1, 300:].std() == pytest.approx(np.sqrt(2 / 100), rel=0.03)
    assert not kernel[1, :300].any()  # inputs that the second node has not
    assert not np.array_equal(kernel[0, 300:], kernel[1, 300:])
