"""What a SavedModel can be asked."""

import itertools
import typing

import tensorflow as tf

# Tensors of these types are taken too, where their numbers are those of the signature's type.
_COUNTS = (tf.int32, tf.int64)
_PIXELS = (tf.float32, tf.float64, tf.uint8, tf.int32, tf.int64, tf.bool)


class ServedModel(tf.Module):
    """The six questions a SavedModel answers, for any batch size. TFP leaves no trace in the graph.

    As signatures they take images as float32 [n, H, W] or [n, H, W, C], pixels being 0 and 1, or k / 255 of 256 values;
    latents as float32 [n, N, D], `keep` and `adjacency` as bool, and `seed`, `num` and `num_importance_samples` as
    int32 scalars. As functions of the loaded model they take images, latents, counts and seeds of other types of
    numbers, too, and images of 256 values also as uint8 in 0-255. Numbers and seeds that are tensors must be of one
    type, int32 or int64.

        sample(num, seed)                                      -> probs, images: [num, H, W], in 0-1
        encode(images)                                         -> codes: [n, N, D]
        reconstruct(images, seed)                              -> probs, images: [n, H, W]
        log_likelihood(images, num_importance_samples, seed)   -> log_likelihood: [n], nats
        decode(latents)                                        -> probs: [n, H, W]
        resample(latents, keep, adjacency, seed)               -> latents: [n, N, D], probs: [n, H, W]

    `resample` keeps the nodes where `keep`, [N] or [n, N], is true. It draws the others anew, each given its parents.
    Edges are shut where `adjacency`, [N, N] with adjacency[child, parent], is false; all true: the model's own graph.
    The noise depends on the seed, the node and the row.

    `probs` are means, `images` draws of the values that pixels have, both in 0-1.

    The loaded model's variable `adjacency` is the model's own graph, and `num_values` says how many values a pixel has.
    `top_down`, `decoder` and `root` are the weights of what draws images, layer by layer; `decoder` is empty if it is
    not the package's dense one. `prior_flow_steps` says whether nodes are drawn through flows, too.

    Pixels that the model cannot have, latents that are not finite, and less than one of what is counted, are an
    InvalidArgumentError.

    Args:
        model: a built `LDIAF`.
    """

    def __init__(self, model: typing.Any):
        super().__init__()
        fixed_gates = [] if model.gates.fixed is None else [model.gates.open]
        self.weights = [*(variable.value for variable in model.variables), *fixed_gates]
        self.num_values = tf.Variable(model.num_values, trainable=False)
        self.adjacency = tf.Variable(model.gates.adjacency(), trainable=False)
        is_dense = not (model.own_decoder or model.is_additive or model.channels)
        self.decoder = _weights(model.decoder.layers if is_dense else [])
        self.top_down = _weights(model.graph.top_down.stack if model.graph.top_down is not None else [])
        self.prior_flow_steps = tf.Variable(model.graph.prior_flow_steps, trainable=False)
        self.root = _weights([model.graph.root] if model.graph.root is not None else [])
        images = tf.TensorSpec([None, *model.image_shape], tf.float32, name="images")
        latents = tf.TensorSpec([None, model.num_nodes, model.node_dim], tf.float32, name="latents")
        one_or_two_axes: typing.Any = None
        keep = tf.TensorSpec(one_or_two_axes, tf.bool, name="keep")
        adjacency = tf.TensorSpec([model.num_nodes] * 2, tf.bool, name="adjacency")
        seed = tf.TensorSpec([], tf.int32, name="seed")
        num = tf.TensorSpec([], tf.int32, name="num")
        num_samples = tf.TensorSpec([], tf.int32, name="num_importance_samples")

        def log_likelihood(images, num_importance_samples, seed):
            return {"log_likelihood": model.log_likelihood(images, num_importance_samples, seed)}

        def resample(latents, keep, adjacency, seed):
            return model.resample(latents, keep, seed, adjacency)

        self.concrete: dict[str, typing.Any] = {}
        for name, function, specs in (
            ("sample", model.sample, [num, seed]),
            ("encode", lambda images: {"codes": model.encode(images)}, [images]),
            ("reconstruct", model.reconstruct, [images, seed]),
            ("log_likelihood", log_likelihood, [images, num_samples, seed]),
            ("decode", model.decode, [latents]),
            ("resample", resample, [latents, keep, adjacency, seed]),
        ):
            served = _served(function, specs, model.shown)
            setattr(self, name, served)
            self.concrete[name] = served.get_concrete_function(*specs)


def _weights(layers):
    return [[weight.value for weight in layer.weights] for layer in layers]


def _served(function, specs, shown):
    """`function` of arguments like `specs`, of all types of numbers; `shown` makes float32 in 0-1 of uint8 images."""

    def checked(*arguments):
        checks = [_check(spec.name, argument) for spec, argument in zip(specs, arguments, strict=True)]
        # What follows waits for the checks: its own complaint of a wrong count would come first at times.
        with tf.control_dependencies([check for check in checks if check is not None]):
            arguments = [tf.identity(argument) for argument in arguments]
        return function(*arguments)

    # One concrete function, or TensorFlow would write it twice.
    inner = tf.function(checked, specs, autograph=False).get_concrete_function()
    outer = tf.function(
        lambda *arguments: inner(*(_as(spec, x, shown) for spec, x in zip(specs, arguments, strict=True))),
        autograph=False,
    )
    for pixels, counts in itertools.product(_PIXELS, _COUNTS):
        types = {tf.float32: pixels, tf.int32: counts, tf.bool: tf.bool}
        outer.get_concrete_function(*(tf.TensorSpec(spec.shape, types[spec.dtype], spec.name) for spec in specs))
    return outer


def _check(name, argument):
    """That a count is at least 1 and latents are finite; of others nothing. Pixels are checked where they are used."""
    if name.startswith("num"):
        return tf.debugging.Assert(argument >= 1, [f"{name} must be at least 1. Received:", argument])
    if name == "latents":
        is_finite = tf.reduce_all(tf.math.is_finite(argument))
        return tf.debugging.Assert(is_finite, ["latents must be finite. Received: NaN or infinity."])
    return None


@tf.function(input_signature=[tf.TensorSpec([], tf.int64)], autograph=False)
def _as_int32(x):
    is_small = tf.debugging.Assert(
        (x < 2**31) & (x >= -(2**31)), ["Numbers and seeds must be below 2^31. Received:", x]
    )
    with tf.control_dependencies([is_small]):
        return tf.cast(x, tf.int32)


def _as(spec, x, shown):
    if spec.name == "images" and x.dtype == tf.uint8:
        return shown(x)
    return _as_int32(x) if x.dtype == tf.int64 and spec.dtype == tf.int32 else tf.cast(x, spec.dtype)
