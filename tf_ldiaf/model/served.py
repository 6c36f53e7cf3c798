"""What a SavedModel can be asked."""

import itertools
import typing

import tensorflow as tf

# Tensors of these types are taken too, where their numbers are those of the signature's type.
_TYPES = {
    tf.int32: (tf.int32, tf.int64),
    tf.float32: (tf.float32, tf.float64, tf.uint8, tf.int32, tf.int64, tf.bool),
}


class ServedModel(tf.Module):
    """The four questions a SavedModel answers, for any batch size. TFP leaves no trace in the graph.

    As signatures they take images as float32 [n, H, W] in {0, 1}, and `seed`, `num` and `num_importance_samples` as
    int32 scalars. As functions of the loaded model they take other types of numbers, too.

        sample(num, seed)                                      -> probs, images: [num, H, W]
        encode(images)                                         -> codes: [n, N, D]
        reconstruct(images, seed)                              -> probs, images: [n, H, W]
        log_likelihood(images, num_importance_samples, seed)   -> log_likelihood: [n], nats

    Other pixels than 0 and 1, and less than one of what is counted, are an InvalidArgumentError.

    Args:
        model: a built `LDIAF`.
    """

    def __init__(self, model: typing.Any):
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        images = tf.TensorSpec([None, *model.image_shape], tf.float32, name="images")
        seed = tf.TensorSpec([], tf.int32, name="seed")
        num = tf.TensorSpec([], tf.int32, name="num")
        num_samples = tf.TensorSpec([], tf.int32, name="num_importance_samples")

        def log_likelihood(images, num_importance_samples, seed):
            return {"log_likelihood": model.log_likelihood(images, num_importance_samples, seed)}

        self.concrete: dict[str, typing.Any] = {}
        for name, function, specs in (
            ("sample", model.sample, [num, seed]),
            ("encode", lambda images: {"codes": model.encode(images)}, [images]),
            ("reconstruct", model.reconstruct, [images, seed]),
            ("log_likelihood", log_likelihood, [images, num_samples, seed]),
        ):
            served = _served(function, specs)
            setattr(self, name, served)
            self.concrete[name] = served.get_concrete_function(*specs)


def _served(function, specs):
    """`function` of arguments like `specs`, of all types of numbers."""

    def checked(*arguments):
        counts = [
            tf.debugging.Assert(argument >= 1, [f"{spec.name} must be at least 1. Received:", argument])
            for spec, argument in zip(specs, arguments, strict=True)
            if spec.name.startswith("num")
        ]
        # All that follows waits for the checks: its own complaint of a wrong count would come first at times.
        with tf.control_dependencies(counts):
            return function(*(tf.identity(argument) for argument in arguments))

    inner = tf.function(checked, specs, autograph=False)
    outer = tf.function(
        lambda *arguments: inner(*(_as(spec, x) for spec, x in zip(specs, arguments, strict=True))), autograph=False
    )
    for types in itertools.product(*(_TYPES[spec.dtype] for spec in specs)):
        own = [tf.TensorSpec(spec.shape, dtype, spec.name) for spec, dtype in zip(specs, types, strict=True)]
        outer.get_concrete_function(*own)
    return outer


def _as(spec, x):
    """x as the type of `spec`; whole numbers that it does not have are refused."""
    cast = tf.cast(x, spec.dtype)
    if x.dtype != tf.int64 or spec.dtype != tf.int32:
        return cast
    is_same = tf.debugging.Assert(tf.cast(cast, x.dtype) == x, [f"{spec.name} must be below 2^31. Received:", x])
    with tf.control_dependencies([is_same]):
        return tf.identity(cast)
