"""Flows against autodiff Jacobians, quadrature and TFP's inverse path."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.flows import InverseAutoregressiveFlow, MaskedNetwork, autoregressive_masks

tfd = tfp.distributions

SHAPES = [(1, 2, (16, 16)), (2, 2, (16, 16)), (4, 3, (16, 16)), (5, 2, (3, 2)), (3, 1, (16,))]


def make_flow(node_dim, num_steps, units, context_dim=3):
    keras.utils.set_random_seed(0)
    flow = InverseAutoregressiveFlow(node_dim, num_steps, units)
    flow.build((None, context_dim))
    return flow


def normal(shape, seed):
    return tf.random.stateless_normal(shape, [seed, 0])


def jacobian(function, inputs):
    """[B, outputs, inputs] of a function that acts on each row, one reverse pass for each output."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        columns = tf.unstack(function(inputs), axis=-1)
    rows = [tape.gradient(column, inputs, unconnected_gradients="zero") for column in columns]
    return np.stack(rows, axis=1)


def train(flow, context, steps=5):
    """Large gradient steps towards a correlated Gaussian, by reverse KL."""
    scale = tf.constant(np.tril(np.full([flow.node_dim] * 2, 0.9)), tf.float32)
    target = tfd.MultivariateNormalTriL(tf.ones(flow.node_dim), scale)
    optimizer = keras.optimizers.Adam(0.05)
    for i in range(steps):
        z = normal([context.shape[0], flow.node_dim], 100 + i)
        with tf.GradientTape() as tape:
            bijector = flow(context)
            loss = -tf.reduce_mean(target.log_prob(bijector.forward(z)) + bijector.forward_log_det_jacobian(z, 1))
        gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
        optimizer.apply(gradients, flow.trainable_variables)


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_is_that_of_the_autodiff_jacobian(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z, context = normal([6, node_dim], 1), normal([6, 3], 2)
    sign, log_det = np.linalg.slogdet(jacobian(lambda z: flow(context).forward(z), z).astype("float64"))
    assert (sign == 1).all()
    assert np.abs(log_det).min() > 0.05
    np.testing.assert_allclose(flow(context).forward_log_det_jacobian(z, 1), log_det, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_each_step_is_exactly_triangular_and_the_next_reverses_the_order(trained):
    flow = make_flow(4, 3, (16, 16))
    z, context = normal([8, 4], 1), normal([8, 3], 2)
    before = [v.numpy() for v in flow.trainable_variables]
    if trained:
        train(flow, context)
        assert all((v.numpy() != b).any() for v, b in zip(flow.trainable_variables, before, strict=True))
    *_, second, first = flow(context).bijectors
    for bijector, zero in [(first, np.triu), (second, np.tril)]:
        matrix = jacobian(bijector.forward, z)
        for row in matrix:
            np.testing.assert_array_equal(zero(row, 1 if zero is np.triu else -1), 0.0)
        # And nothing that may depend is cut off.
        allowed = ~zero(np.ones((4, 4), bool), 1 if zero is np.triu else -1)
        assert (np.abs(matrix).max(axis=0)[allowed] > 0).all()


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_inverse_undoes_forward(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z, context = normal([6, node_dim], 1), normal([6, 3], 2)
    image = flow(context).forward(z).numpy()  # a new bijector and a new tensor: TFP would return its cached z
    np.testing.assert_allclose(flow(context).inverse(tf.constant(image)), z, atol=1e-4)
    assert np.abs(image - z).max() > 0.1


def test_steps_follow_the_equation_in_order(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([6, 3], 1), normal([6, 3], 2)
    expected, log_det = z.numpy(), 0
    for network in flow.networks:
        shift, gate_logit = (part.numpy() for part in network(tf.constant(expected), context))
        s = 1 / (1 + np.exp(-gate_logit - 2))
        expected, log_det = s * expected + (1 - s) * shift, log_det + np.log(s).sum(axis=-1)
    np.testing.assert_allclose(flow(context).forward(z), expected, atol=1e-5)
    np.testing.assert_allclose(flow(context).forward_log_det_jacobian(z, 1), log_det, atol=1e-5)


def test_starts_near_the_identity():
    flow = make_flow(4, 2, (16, 16))
    z, context = normal([50, 4], 1), normal([50, 3], 2)
    shrinkage = tf.sigmoid(2.0) ** 2  # of s = sigmoid(0 + 2), twice
    np.testing.assert_allclose(flow(context).forward(z), shrinkage * z, atol=0.15)
    np.testing.assert_allclose(jacobian(lambda z: flow(context).forward(z), z).mean(axis=0), 0.78 * np.eye(4), atol=0.1)


def test_two_dimensional_density_integrates_to_one(randomise):
    flow = randomise(make_flow(2, 3, (16, 16)), scale=0.5)
    axis = np.linspace(-9, 9, 301, dtype="float32")
    grid = tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    base = tfd.MultivariateNormalDiag([0.4, -0.3], [1.2, 0.7])
    flow_distribution = tfd.TransformedDistribution(base, flow(tf.constant([[0.5, -1.0, 0.2]])))
    density = np.exp(flow_distribution.log_prob(grid)).reshape(301, 301)
    assert max(density[[0, -1]].max(), density[:, [0, -1]].max()) < 1e-6
    assert density.astype("float64").sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


def test_log_prob_of_a_draw_equals_that_of_the_inverse_path(randomise):
    """`forward` and its determinant on one side, TFP's sequential inverse and its determinant on the other."""
    flow = randomise(make_flow(4, 2, (16, 16)))
    context = normal([20, 3], 2)
    base = tfd.MultivariateNormalDiag(normal([20, 4], 3), tf.exp(normal([20, 4], 4)))
    z, log_prob = tfd.TransformedDistribution(base, flow(context)).experimental_sample_and_log_prob(seed=[0, 1])
    again = tfd.TransformedDistribution(base, flow(context)).log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(log_prob, again, atol=1e-3)
    assert np.abs(log_prob - base.log_prob(z)).max() > 0.1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("node_dim", "units"), [(1, (4,)), (2, (3, 5)), (4, (16, 16)), (5, (3, 2)), (7, (2,))])
def test_masks_connect_only_and_in_wide_networks_all_earlier_inputs(node_dim, units, reverse):
    masks = autoregressive_masks(node_dim, units, reverse)
    assert [mask.shape for mask in masks] == list(zip((node_dim, *units), (*units, node_dim), strict=True))
    assert all(set(np.unique(mask)) <= {0, 1} for mask in masks)
    paths = np.linalg.multi_dot(masks) if len(masks) > 1 else masks[0]
    before = (np.tril if reverse else np.triu)(np.ones((node_dim, node_dim)), -1 if reverse else 1)  # [input, output]
    assert (paths[before == 0] == 0).all()
    if min(units) >= node_dim:
        assert (paths[before == 1] > 0).all()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("node_dim", [1, 4])
def test_context_reaches_all_outputs(node_dim, reverse, randomise):
    network = MaskedNetwork(node_dim, (16, 16), reverse)
    network.build((None, node_dim), (None, 3))
    randomise(network)
    z = normal([8, node_dim], 1)
    matrix = jacobian(lambda context: tf.concat(network(z, context), axis=-1), normal([8, 3], 2))
    assert (np.abs(matrix).max(axis=0) > 0).all(), "m and s of every dimension depend on all of h"


def test_gradient_reaches_every_weight(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([8, 3], 1), normal([8, 3], 2)
    with tf.GradientTape() as tape:
        bijector = flow(context)
        loss = tf.reduce_sum(bijector.forward(z) ** 2) + tf.reduce_sum(bijector.forward_log_det_jacobian(z, 1))
    gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
    assert len(gradients) == 2 * (3 + 3 + 1)
    assert all(g is not None and np.isfinite(g).all() and np.any(g) for g in gradients)


def test_serialisation_keeps_the_function(randomise):
    flow = randomise(make_flow(3, 2, (16, 8)))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(flow))
    copy.set_weights(flow.get_weights())
    z, context = normal([4, 3], 1), normal([4, 3], 2)
    np.testing.assert_array_equal(copy(context).forward(z), flow(context).forward(z))
    network = MaskedNetwork.from_config(flow.networks[1].get_config())
    assert (network.node_dim, network.units, network.reverse) == (3, (16, 8), True)
