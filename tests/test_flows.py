"""Flows against autodiff Jacobians, quadrature and the inverse path."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers.flows import InverseAutoregressiveFlows, autoregressive_masks, run_chain

tfd = tfp.distributions

SHAPES = [(1, 2, (16, 16)), (2, 2, (16, 16)), (4, 3, (16, 16)), (5, 2, (3, 2)), (3, 1, (16,))]


NODE = 1  # of two: the test would notice a node that is given the weights of another


def make_flow(node_dim, num_steps, units, context_dim=3):
    keras.utils.set_random_seed(0)
    flow = InverseAutoregressiveFlows(2, node_dim, num_steps, units, context_dim)
    flow.build()
    return flow


def chain(flow, context):
    """The steps of one node; the other node has another context."""
    return flow.of_one(tf.stack([1.0 - context, context]))(NODE)


def normal(shape, seed):
    return tf.random.stateless_normal(shape, [seed, 0])


def jacobian(function, inputs):
    """[B, outputs, inputs] of a function that acts on each row, one reverse pass for each output."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        columns = tf.unstack(function(inputs), axis=-1)
    rows = [tape.gradient(column, inputs, unconnected_gradients="zero") for column in columns]
    return np.stack(rows, axis=1)


def train(flow, node_dim, context, steps=5):
    """Large gradient steps towards a correlated Gaussian, by reverse KL."""
    scale = tf.constant(np.tril(np.full([node_dim] * 2, 0.9)), tf.float32)
    target = tfd.MultivariateNormalTriL(tf.ones(node_dim), scale)
    optimizer = keras.optimizers.Adam(0.05)
    for i in range(steps):
        z_0 = normal([context.shape[0], node_dim], 100 + i)
        with tf.GradientTape() as tape:
            z, log_s = run_chain(chain(flow, context), z_0)
            loss = -tf.reduce_mean(target.log_prob(z) + tf.reduce_sum(log_s, axis=-1))
        gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
        optimizer.apply(gradients, flow.trainable_variables)


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_is_that_of_the_autodiff_jacobian(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z, context = normal([6, node_dim], 1), normal([6, 3], 2)
    matrix = jacobian(lambda z: run_chain(chain(flow, context), z)[0], z)
    sign, log_det = np.linalg.slogdet(matrix.astype("float64"))
    assert (sign == 1).all()
    assert np.abs(log_det).min() > 0.05
    log_s = run_chain(chain(flow, context), z)[1]
    np.testing.assert_allclose(tf.reduce_sum(log_s, axis=-1), log_det, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_each_step_is_exactly_triangular_and_the_next_reverses_the_order(trained):
    flow = make_flow(4, 3, (16, 16))
    z, context = normal([8, 4], 1), normal([8, 3], 2)
    before = [v.numpy() for v in flow.trainable_variables]
    if trained:
        train(flow, 4, context)
        assert all((v.numpy() != b).any() for v, b in zip(flow.trainable_variables, before, strict=True))
    first, second, third = chain(flow, context)
    for step, zero in [(first, np.triu), (second, np.tril), (third, np.triu)]:
        matrix = jacobian(lambda z, step=step: step(z)[0], z)
        for row in matrix:
            np.testing.assert_array_equal(zero(row, 1 if zero is np.triu else -1), 0.0)
        # And nothing that may depend is cut off.
        allowed = ~zero(np.ones((4, 4), bool), 1 if zero is np.triu else -1)
        assert (np.abs(matrix).max(axis=0)[allowed] > 0).all()


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_at_a_point_is_minus_that_of_the_inverse_path(node_dim, num_steps, units, randomise, invert_chain):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z_0, steps = normal([6, node_dim], 1), chain(flow, normal([6, 3], 2))
    z, log_s = run_chain(steps, z_0)
    found, inverse_log_det = invert_chain(steps, z)
    np.testing.assert_allclose(found, z_0, atol=1e-4)
    np.testing.assert_allclose(inverse_log_det, -tf.reduce_sum(log_s, axis=-1), atol=1e-4)
    assert np.abs(z - z_0).max() > 0.1


def test_a_step_is_the_equation_with_the_masked_weights_of_its_node(randomise):
    """The last node's second step, in float64 from slices of the stacked variables."""
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([6, 3], 1).numpy().astype("float64"), normal([6, 3], 2)
    masks = autoregressive_masks(3, (16, 16), reverse=True)
    masks[-1] = np.concatenate([masks[-1], masks[-1]], axis=1)
    outputs, from_context = z, context.numpy() @ flow.context.kernel.numpy()[-1]
    for layer, mask in zip(flow.stack, masks, strict=True):
        outputs = outputs @ (layer.kernel.numpy()[-1] * mask) + layer.bias.numpy()[-1, 0] + from_context
        from_context = 0
        if layer is not flow.stack[-1]:
            outputs = np.where(outputs > 0, outputs, np.expm1(outputs))
    shift, gate_logit = np.split(outputs, 2, axis=1)
    s = 1 / (1 + np.exp(-gate_logit - 2))
    found, log_s = chain(flow, context)[1](tf.constant(z, tf.float32))
    np.testing.assert_allclose(found, s * z + (1 - s) * shift, atol=1e-5)
    np.testing.assert_allclose(log_s, np.log(s), atol=1e-5)


def test_draws_share_the_context_of_their_image(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([7, 6, 3], 1), normal([6, 3], 2)
    together = run_chain(chain(flow, context), z)
    for i in range(7):
        for part, alone in zip(together, run_chain(chain(flow, context), z[i]), strict=True):
            np.testing.assert_allclose(part[i], alone, atol=1e-5)


def test_starts_near_the_identity():
    flow = make_flow(4, 2, (16, 16))
    z, context = normal([50, 4], 1), normal([50, 3], 2)
    shrinkage = tf.sigmoid(2.0) ** 2  # of s = sigmoid(0 + 2), twice
    np.testing.assert_allclose(run_chain(chain(flow, context), z)[0], shrinkage * z, atol=0.15)
    matrix = jacobian(lambda z: run_chain(chain(flow, context), z)[0], z)
    np.testing.assert_allclose(matrix.mean(axis=0), 0.78 * np.eye(4), atol=0.1)


def test_two_dimensional_density_integrates_to_one(randomise, invert_chain):
    flow = randomise(make_flow(2, 3, (16, 16)))
    axis = np.linspace(-9, 9, 301, dtype="float32")
    grid = tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    base = tfd.MultivariateNormalDiag([0.4, -0.3], [1.2, 0.7])
    z_0, log_det = invert_chain(chain(flow, tf.constant([[0.5, -1.0, 0.2]])), grid)
    density = np.exp(base.log_prob(z_0) + log_det).reshape(301, 301)
    assert max(density[[0, -1]].max(), density[:, [0, -1]].max()) < 1e-6
    assert density.astype("float64").sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


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


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("node_dim", [1, 4])
def test_context_reaches_all_outputs(node_dim, step, randomise):
    flow = randomise(make_flow(node_dim, 2, (16, 16)))
    z = normal([8, node_dim], 1)
    matrix = jacobian(lambda context: tf.concat(chain(flow, context)[step](z), axis=-1), normal([8, 3], 2))
    assert (np.abs(matrix).max(axis=0) > 0).all(), "z and s of every dimension depend on all of h"


def test_gradient_reaches_every_weight_of_every_node_and_step(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([8, 3], 1), normal([8, 3], 2)
    with tf.GradientTape() as tape:
        chains = flow.of_one(tf.stack([context, 1.0 - context]))
        drawn = [run_chain(chains(n), z) for n in range(2)]
        loss = sum(tf.reduce_sum(z**2) + tf.reduce_sum(log_s) for z, log_s in drawn)
    gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
    assert len(gradients) == 3 + 3 + 1
    for variable, gradient in zip(flow.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert len(gradient) == 2 * 2  # nodes and steps
        assert np.any(gradient.numpy() != 0, axis=(1, 2)).all(), variable.path
