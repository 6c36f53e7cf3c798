"""Every public layer against one contract; stacked layers against slices."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_ldiaf import layers
from tf_ldiaf.layers import (
    AdditiveDecoder,
    BernoulliLikelihood,
    Categorical,
    DiscretizedLogistic,
    Gates,
    GaussianNetworks,
    InverseAutoregressiveFlow,
    LatentGraph,
    MaskedAutoregressiveFlow,
    MaskedDecoder,
    MixturePrior,
    ResidualBlock,
    StackedDense,
)
from tf_ldiaf.layers.stacked import dense_network


def drawn(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 5])


def graph(**settings):
    settings = {"node_units": (8,), "flow_units": (8,), "context_dim": 4} | settings
    return LatentGraph(3, 2, **settings)


def of_graph(layer, features):
    prior, posterior = layer.prior(), layer.posterior(features)
    z, log_prob = posterior.experimental_sample_and_log_prob(2, seed=(1, 2))
    return [z, log_prob, prior.log_prob(z), prior.sample(3, seed=1)]


def of_gates(layer):
    relaxed = [layer.sample((2, 3), 0.5, [1, 2])] if layer.fixed is None else []
    return [layer.probs(), layer.adjacency(), *relaxed]


def of_flow(layer, z, context):
    every = layer.bijectors(tf.stack([context, 1.0 - context])[: layer.num_nodes])(layer.num_nodes - 1)
    return [every.forward(z), every.forward_log_det_jacobian(z, event_ndims=1)]


def of_likelihood(layer, outputs):
    distribution = layer(outputs, image_shape=(2, 3, 2))
    return [distribution.mean(), distribution.log_prob(tf.ones([2, 3, 2]))]


def case(make, inputs=(), build_shape=None, is_callable=True, method=None, no_gradient=()):
    """How the layer is made; what it takes; what it is built for; its method of (layer, *inputs), if not its call."""
    return types.SimpleNamespace(
        make=make,
        inputs=[drawn(shape, i) for i, shape in enumerate(inputs)],
        build_shape=build_shape,
        is_callable=is_callable,
        method=method or (lambda layer, *inputs: tf.nest.flatten(layer(*inputs))),
        no_gradient=no_gradient,
    )


FLOW_INPUTS = [(5, 2), (5, 3)]
WIDE = {"class_name": "RandomNormal", "config": {"stddev": 2.0}}
CASES = {
    "AdditiveDecoder": case(lambda: AdditiveDecoder(3, 2, (4, 5), [8]), [(5, 6)], (None, 6)),
    "AdditiveDecoder of colours": case(
        lambda: AdditiveDecoder(3, 2, (4, 5, 3), [8], numbers_per_pixel=12), [(5, 6)], (None, 6)
    ),
    "ResidualBlock": case(lambda: ResidualBlock(), [(2, 4, 3, 5)], (None, 4, 3, 5)),
    "MaskedDecoder": case(lambda: MaskedDecoder(np.eye(2).reshape(2, 1, 2), 3, [8]), [(5, 6)], (None, 6)),
    "MaskedDecoder of greys": case(
        lambda: MaskedDecoder(np.eye(2).reshape(2, 1, 2), 3, [8], numbers_per_pixel=2), [(5, 6)], (None, 6)
    ),
    "BernoulliLikelihood": case(BernoulliLikelihood, [(5, 2, 3, 2)], (None, 2, 3, 2), False, of_likelihood),
    "Categorical": case(Categorical, [(5, 2, 3, 512)], (None, 2, 3, 512), False, of_likelihood),
    "DiscretizedLogistic": case(
        lambda: DiscretizedLogistic(4), [(5, 2, 3, 24)], (None, 2, 3, 24), False, of_likelihood
    ),
    "StackedDense": case(lambda: StackedDense(4, 3, "he_normal"), [(4, 5, 6)], (4, None, 6)),
    "StackedDense of others": case(
        lambda: StackedDense(2, 3, WIDE, False, [4, 2]),
        [(1, 5, 4)],
        (None, 4),
    ),
    "GaussianNetworks": case(lambda: GaussianNetworks(3, 2, (8, 7), 4), [(5, 6)], (None, 6)),
    "GaussianNetworks of others": case(
        lambda: GaussianNetworks(2, 2, [8], input_dims=[6, 3]), [(5, 6)], (None, 6), no_gradient=["context"]
    ),
    "Gates learned": case(lambda: Gates(3, initial_prob=0.7), [], (), False, of_gates),
    "Gates fixed": case(lambda: Gates(3, [(3, 1)]), [], (), False, of_gates),
    "InverseAutoregressiveFlow": case(lambda: InverseAutoregressiveFlow(2, 3, 2, [8, 7]), FLOW_INPUTS),
    "InverseAutoregressiveFlow of nodes": case(
        lambda: InverseAutoregressiveFlow(2, 3, 1, (8,), num_nodes=2), FLOW_INPUTS, None, False, of_flow
    ),
    "MaskedAutoregressiveFlow": case(lambda: MaskedAutoregressiveFlow(2, 3, 2, [8, 7], num_nodes=1), FLOW_INPUTS),
    "MixturePrior": case(lambda: MixturePrior(3, 2), [(4, 5, 2)], (None, 2)),
    "LatentGraph learned": case(lambda: graph(num_flow_steps=1, initial_gate_prob=0.7), [(5, 6)], (None, 6)),
    "LatentGraph fixed": case(
        lambda: graph(edges=[(3, 1), (2, 1)], root_components=2), [(5, 6)], (None, 6), method=of_graph
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_contract_of_a_layer(name, randomise, tmp_path):
    """Usable unbuilt; its settings, its weights and what it computes survive each of Keras's ways of saving."""
    keras.utils.set_random_seed(0)
    given = CASES[name]
    layer = given.make()
    given.method(layer, *given.inputs)
    randomise(layer)
    expected = given.method(layer, *given.inputs)
    assert all(np.isfinite(part).all() for part in expected)

    fresh = given.make()  # built without being used
    fresh.build() if given.build_shape in ((), None) else fresh.build(given.build_shape)
    assert [w.shape for w in fresh.weights] == [w.shape for w in layer.weights]
    config = layer.get_config()
    assert json.loads(json.dumps(config)) == json.loads(json.dumps(given.make().get_config() | {"name": layer.name}))
    copies = [fresh, type(layer).from_config(config), type(layer).from_config(json.loads(json.dumps(config)))]
    copies.append(keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)))
    for copy in copies:
        assert type(copy) is type(layer)
        if copy is not fresh:
            assert json.dumps(copy.get_config()) == json.dumps(config)
        if not copy.built:
            given.method(copy, *given.inputs)
        copy.set_weights(layer.get_weights())
        for one, other in zip(given.method(copy, *given.inputs), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    if not given.is_callable:
        return
    # In somebody's functional model, saved and loaded.
    inputs = [keras.Input(batch_shape=(None, *x.shape[1:])) for x in given.inputs]
    if isinstance(layer, StackedDense):
        inputs = [keras.Input(batch_shape=given.inputs[0].shape)]
    model = keras.Model(inputs, tf.nest.flatten(layer(*inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = tf.nest.flatten(layer(*given.inputs))
    for found in (model(given.inputs), loaded(given.inputs)):
        for one, other in zip(tf.nest.flatten(found), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_of_a_layer_gets_a_gradient(name, randomise):
    keras.utils.set_random_seed(0)
    given = CASES[name]
    layer = given.make()
    given.method(layer, *given.inputs)
    randomise(layer)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(tf.sin(part)) for part in given.method(layer, *given.inputs)])
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    assert len(gradients) == (0 if name == "Gates fixed" else len(layer.trainable_weights))
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
        if name == "LatentGraph learned" and variable.name == "scaled_logits":  # decided, outside of training
            assert gradient is None
            continue
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient), variable.path


def test_every_public_layer_is_under_the_contract():
    assert {name.partition(" ")[0] for name in CASES} == set(layers.__all__)


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_flow_of_several_nodes_is_called_for_the_first(num_nodes):
    flow, z, context = InverseAutoregressiveFlow(2, 3, 2, (8,), num_nodes), drawn((5, 2)), drawn((5, 3), 1)
    found, log_det = flow(z, context)
    contexts = tf.stack([context, 1.0 - context])[:num_nodes]
    np.testing.assert_allclose(found, flow.bijectors(contexts)(0).forward(z), atol=1e-6)
    assert (found.shape, log_det.shape) == ((5, 2), (5,))


@pytest.mark.parametrize("name", ["probs", "adjacency"])
def test_gates_that_were_not_built_are_usable(name):
    found = getattr(Gates(3, initial_prob=0.75), name)()
    np.testing.assert_allclose(found, np.triu(np.full((3, 3), 0.75 if name == "probs" else 1.0), 1), atol=1e-6)


def test_stacked_weights_under_a_repeated_mask():
    keras.utils.set_random_seed(0)
    layer = StackedDense(4, 3, "he_normal")
    layer.build((None, 2))
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
        outputs = [(tf.nn.elu(x @ k_0[n] + b_0[n]) @ k_1[n] + b_1[n]) * scale[n] for n in range(3)]
        return tf.add_n([tf.reduce_sum(tf.sin(y)) for y in outputs])

    def looped(k_0, b_0, k_1, b_1, x, scale):
        def add(n, total):
            y = dense_network([(k_0, b_0), (k_1, b_1)], x, n) * scale[n]
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
