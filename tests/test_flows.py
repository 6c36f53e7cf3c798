"""Flows against autodiff Jacobians, quadrature, float64 and TFP's inverse, which is another computation."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.layers import InverseAutoregressiveFlow, flows
from tf_ldiaf.probability.iaf import autoregressive_masks

tfb, tfd = tfp.bijectors, tfp.distributions

SHAPES = [(1, 2, (16, 16)), (2, 2, (16, 16)), (4, 3, (16, 16)), (5, 2, (3, 2)), (3, 1, (16,))]


NODE = 1  # of two: the test would notice a node that is given the weights of another


def make_flow(node_dim, num_steps, units, context_dim=3):
    keras.utils.set_random_seed(0)
    flow = InverseAutoregressiveFlow(node_dim, context_dim, num_steps, units, num_nodes=2)
    flow.build()
    return flow


def chain(flow, context):
    """The bijector of one node; the other node has another context."""
    return flow.bijectors(tf.stack([1.0 - context, context]))(NODE)


def steps_of(flow, context):
    """In the order in which z_0 goes through them."""
    return chain(flow, context).bijectors[::-1]


def forward(bijector, z):
    return bijector.forward(z), bijector.forward_log_det_jacobian(z, event_ndims=1)


def inverse(bijector, z):
    """TFP keeps what it computed for a tensor, so it is given another one."""
    z = tf.constant(np.array(z))
    return bijector.inverse(z), bijector.inverse_log_det_jacobian(z, event_ndims=1)


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
            z, log_det = forward(chain(flow, context), z_0)
            loss = -tf.reduce_mean(target.log_prob(z) + log_det)
        gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
        optimizer.apply(gradients, flow.trainable_variables)


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_is_that_of_the_autodiff_jacobian(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z, context = normal([6, node_dim], 1), normal([6, 3], 2)
    matrix = jacobian(lambda z: chain(flow, context).forward(z), z)
    sign, log_det = np.linalg.slogdet(matrix.astype("float64"))
    assert (sign == 1).all()
    assert np.abs(log_det).min() > 0.05
    np.testing.assert_allclose(forward(chain(flow, context), z)[1], log_det, atol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_each_step_is_exactly_triangular_and_the_next_reverses_the_order(trained):
    flow = make_flow(4, 3, (16, 16))
    z, context = normal([8, 4], 1), normal([8, 3], 2)
    before = [v.numpy() for v in flow.trainable_variables]
    if trained:
        train(flow, 4, context)
        assert all((v.numpy() != b).any() for v, b in zip(flow.trainable_variables, before, strict=True))
    first, second, third = steps_of(flow, context)
    for step, zero in [(first, np.triu), (second, np.tril), (third, np.triu)]:
        matrix = jacobian(step.forward, z)
        for row in matrix:
            np.testing.assert_array_equal(zero(row, 1 if zero is np.triu else -1), 0.0)
        # And nothing that may depend is cut off.
        allowed = ~zero(np.ones((4, 4), bool), 1 if zero is np.triu else -1)
        assert (np.abs(matrix).max(axis=0)[allowed] > 0).all()


@pytest.mark.parametrize(("node_dim", "num_steps", "units"), SHAPES)
def test_log_det_at_a_point_is_minus_that_of_the_inverse_path(node_dim, num_steps, units, randomise):
    flow = randomise(make_flow(node_dim, num_steps, units))
    z_0, bijector = normal([6, node_dim], 1), chain(flow, normal([6, 3], 2))
    z, log_det = forward(bijector, z_0)
    found, inverse_log_det = inverse(bijector, z)
    np.testing.assert_allclose(found, z_0, atol=1e-4)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-4)
    assert np.abs(z - z_0).max() > 0.1


def is_a(bijector, kind):
    """TFP gives its composed bijectors a base class of their public one."""
    return type(bijector) in kind.__mro__[: kind.__mro__.index(tfb.Bijector)]


def test_the_bijector_is_a_chain_of_the_steps_of_tfp():
    bijector = chain(make_flow(3, 4, (8,)), normal([6, 3], 2))
    assert is_a(bijector, tfb.Chain)
    assert len(bijector.bijectors) == 4
    for step in bijector.bijectors:
        assert is_a(step, tfb.Invert)
        assert is_a(step.bijector, tfb.MaskedAutoregressiveFlow)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("log_det_first", [False, True])
def test_value_and_log_det_take_one_pass_of_each_network(jit_compile, log_det_first, monkeypatch):
    flow, calls, original = make_flow(3, 3, (8,)), [], flows.dense_network
    monkeypatch.setattr(flows, "dense_network", lambda *given: calls.append(1) or original(*given))

    @tf.function(jit_compile=jit_compile)
    def both(z, context):
        with tf.GradientTape() as tape:
            tape.watch(z)
            bijector = chain(flow, context)
            log_det = bijector.forward_log_det_jacobian(z, event_ndims=1) if log_det_first else 0.0
            value, log_det = forward(bijector, z)
            loss = tf.reduce_sum(value) + tf.reduce_sum(log_det)
        return tape.gradient(loss, z)

    both(normal([6, 3], 1), normal([6, 3], 2))
    assert len(calls) == 3


@pytest.mark.parametrize("compiled", [False, True])
def test_a_bijector_is_right_at_every_z_that_it_is_given_one_after_another(compiled, randomise):
    """What it keeps of one z is not used for the next, and the inverse between them does not disturb it."""
    flow = randomise(make_flow(3, 2, (8,)))
    context, points = normal([6, 3], 2), [normal([6, 3], seed) for seed in (3, 4, 3)]

    def of_all(*points):
        bijector, found = chain(flow, context), []
        for z in points:
            found += [*forward(bijector, z), bijector.inverse(z + 1.0), *forward(bijector, z)]
        return found

    found = (tf.function(of_all) if compiled else of_all)(*points)
    for i, z in enumerate(points):
        expected = [*forward(chain(flow, context), z), chain(flow, context).inverse(z + 1.0)]
        for one, other in zip(found[5 * i : 5 * i + 5], [*expected, *expected[:2]], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_bijector_that_was_used_before_a_tape_has_its_gradient_in_it(randomise):
    flow, z, context = randomise(make_flow(3, 2, (8,))), normal([6, 3], 1), normal([6, 3], 2)
    expected = jacobian(lambda z: chain(flow, context).forward(z), z)
    bijector = chain(flow, context)
    bijector.forward(z)  # TFP keeps it only as long as somebody else does
    np.testing.assert_allclose(jacobian(bijector.forward, z), expected, atol=1e-6)


def last_network_in_float64(flow, z, context):
    """(m, gate_logit) of the last node's second step, from slices of the stacked variables."""
    masks = autoregressive_masks(3, (16, 16), reverse=True)
    masks[-1] = np.concatenate([masks[-1], masks[-1]], axis=1)
    outputs, from_context = np.asarray(z, "float64"), context.numpy() @ flow.context.kernel.numpy()[-1]
    for layer, mask in zip(flow.stack, masks, strict=True):
        outputs = outputs @ (layer.kernel.numpy()[-1] * mask) + layer.bias.numpy()[-1, 0] + from_context
        from_context = 0
        if layer is not flow.stack[-1]:
            outputs = np.where(outputs > 0, outputs, np.expm1(outputs))
    return np.split(outputs, 2, axis=1)


def test_a_step_is_the_equation_with_the_masked_weights_of_its_node(randomise):
    """The last node's second step, in float64 from slices of the stacked variables."""
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([6, 3], 1).numpy().astype("float64"), normal([6, 3], 2)
    shift, gate_logit = last_network_in_float64(flow, z, context)
    s = 1 / (1 + np.exp(-gate_logit - 2))
    step, z_1 = steps_of(flow, context)[1], tf.constant(z, tf.float32)
    found, log_det = forward(step, z_1)
    np.testing.assert_allclose(found, s * z + (1 - s) * shift, atol=1e-5)
    np.testing.assert_allclose(log_det, np.log(s).sum(axis=-1), atol=1e-5)
    of_each = jacobian(steps_of(flow, context)[1].forward, z_1)[
        :, range(3), range(3)
    ]  # s_d: m_d does not depend on z_d
    np.testing.assert_allclose(of_each, s, atol=1e-5)


def test_draws_share_the_context_of_their_image(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([7, 6, 3], 1), normal([6, 3], 2)
    together = forward(chain(flow, context), z)
    for i in range(7):
        for part, alone in zip(together, forward(chain(flow, context), z[i]), strict=True):
            np.testing.assert_allclose(part[i], alone, atol=1e-5)


def test_the_layer_called_is_the_first_nodes_bijector(randomise):
    flow, z, context = randomise(make_flow(3, 2, (16, 16))), normal([6, 3], 1), normal([6, 3], 2)
    expected = forward(flow.bijectors(tf.stack([context, 1.0 - context]))(0), z)
    for found in (flow(z, context), forward(flow.bijector(context), z)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(expected[0] - forward(chain(flow, context), z)[0]).max() > 0.1


@pytest.mark.parametrize("wrong", [{"num_steps": 0}, {"units": ()}])
def test_a_flow_needs_a_step_and_a_hidden_width(wrong):
    with pytest.raises(ValueError, match=r"num_steps must be at least 1 and units must name a width\. Received: "):
        InverseAutoregressiveFlow(2, 3, **wrong)


def test_starts_near_the_identity():
    flow = make_flow(4, 2, (16, 16))
    z, context = normal([50, 4], 1), normal([50, 3], 2)
    shrinkage = tf.sigmoid(2.0) ** 2  # of s = sigmoid(0 + 2), twice
    np.testing.assert_allclose(chain(flow, context).forward(z), shrinkage * z, atol=0.15)
    matrix = jacobian(lambda z: chain(flow, context).forward(z), z)
    np.testing.assert_allclose(matrix.mean(axis=0), 0.78 * np.eye(4), atol=0.1)


def test_two_dimensional_density_integrates_to_one(randomise):
    flow = randomise(make_flow(2, 3, (16, 16)), 0.2)  # at 0.3 the inverse of far points is beyond float32
    axis = np.linspace(-9, 9, 301, dtype="float32")
    grid = tf.constant(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    base = tfd.MultivariateNormalDiag([0.4, -0.3], [1.2, 0.7])
    bijector = chain(flow, tf.constant([[0.5, -1.0, 0.2]]))
    density = np.exp(tfd.TransformedDistribution(base, bijector).log_prob(grid)).reshape(301, 301)
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

    def value_and_s(context):
        """s_d is how far z_d goes when it is moved by 1, because m_d and s_d do not depend on it."""
        function = steps_of(flow, context)[step].forward
        moved = [function(z + one)[:, d] - function(z)[:, d] for d, one in enumerate(np.eye(node_dim, dtype="float32"))]
        return tf.concat([function(z), tf.stack(moved, axis=-1)], axis=-1)

    matrix = jacobian(value_and_s, normal([8, 3], 2))
    assert (np.abs(matrix).max(axis=0) > 1e-4).all(), "z and s of every dimension depend on all of h"


def test_gradient_reaches_every_weight_of_every_node_and_step(randomise):
    flow = randomise(make_flow(3, 2, (16, 16)))
    z, context = normal([8, 3], 1), normal([8, 3], 2)
    with tf.GradientTape() as tape:
        chains = flow.bijectors(tf.stack([context, 1.0 - context]))
        drawn = [forward(chains(n), z) for n in range(2)]
        loss = sum(tf.reduce_sum(z**2) + tf.reduce_sum(log_det) for z, log_det in drawn)
    gradients = tape.gradient(loss, [v.value for v in flow.trainable_variables])
    assert len(gradients) == 3 + 3 + 1
    for variable, gradient in zip(flow.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert len(gradient) == 2 * 2  # nodes and steps
        assert np.any(gradient.numpy() != 0, axis=(1, 2)).all(), variable.path
