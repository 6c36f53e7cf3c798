"""The networks between images and latents: ordinary Keras models, dense or with residual convolutions."""

import math
import typing
from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer, in_float32
from tf_ldiaf.probability.activations import elu
from tf_ldiaf.probability.likelihoods import grid_and_channels


@in_float32()
def make_encoder(
    units: Sequence[int], channels: Sequence[int], image_shape: Sequence[int], residual_blocks: int = 2
) -> keras.Sequential:
    """Features [B, units[-1]] of images [B, H * W * C]: residual convolutions, if there are `channels`; dense layers.

    At each resolution there are `residual_blocks` of `ResidualBlock`. A convolution of 2 x 2 pixels, without overlap,
    leads from one resolution to half of it.

    Args:
        units: widths of the dense layers.
        channels: of the convolutions at full, half, a quarter of the images' height and width, and so on. A 0 leaves
            the resolution out: (0, 32, 64) works at half and at a quarter.
        image_shape: (H, W) or (H, W, C).
        residual_blocks: residual blocks at each resolution.

    Raises:
        ValueError: H or W cannot be halved as often as `channels` say; no channels at the last resolution.
    """
    layers: list[typing.Any] = []
    if channels:
        steps = _steps(channels, image_shape)
        grid, depth = grid_and_channels(image_shape)
        layers += [keras.layers.Reshape((*grid, depth))]
        for i, (num_channels, factor) in enumerate(steps):
            side = 3 if factor == 1 else factor
            layers += [_convolution(keras.layers.Conv2D, num_channels, side, factor, name=f"to_resolution_{i}")]
            layers += [ResidualBlock(name=f"block_{i}_{j}") for j in range(residual_blocks)]
        layers += [keras.layers.Activation(elu, name="elu")]
        layers += [keras.layers.Reshape((-1,))]  # not Flatten, which obeys Keras's image_data_format
    layers += [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    return keras.Sequential(layers, name="encoder")


@in_float32()
def make_decoder(
    units: Sequence[int],
    channels: Sequence[int],
    image_shape: Sequence[int],
    residual_blocks: int = 2,
    numbers_per_pixel: int = 1,
) -> keras.Sequential:
    """Numbers for each pixel, [B, H * W * numbers], of [B, inputs]: dense layers; residual convolutions, if any.

    With `channels` it is the encoder's mirror image: from the last resolution to the first.

    Args, raises: as for `make_encoder`. Of the likelihood are
        numbers_per_pixel: how many each pixel, a place with all its channels, takes.
    """
    layers: list[typing.Any] = [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    if channels:
        steps = _steps(channels, image_shape)
        whole = math.prod(factor for _, factor in steps)
        grid = [side // whole for side in grid_and_channels(image_shape)[0]]
        layers += [keras.layers.Dense(math.prod(grid) * channels[-1], name="grid")]
        layers += [keras.layers.Reshape((*grid, channels[-1]))]
        widths = [numbers_per_pixel] + [num_channels for num_channels, _ in steps]
        for i, (_, factor) in reversed(list(enumerate(steps))):
            layers += [ResidualBlock(name=f"block_{i}_{j}") for j in range(residual_blocks)]
            layers += [keras.layers.Activation(elu, name=f"elu_{i}")]
            layers += [
                _convolution(keras.layers.Conv2DTranspose, widths[i], factor, factor, name=f"from_resolution_{i}")
            ]
        layers += [keras.layers.Reshape((-1,))]
    else:
        num_pixels = math.prod(grid_and_channels(image_shape)[0])
        layers += [keras.layers.Dense(num_pixels * numbers_per_pixel, name="output")]
    return keras.Sequential(layers, name="decoder")


@keras.saving.register_keras_serializable("tf_ldiaf")
class ResidualBlock(Float32Layer):
    """x + convolution(elu(convolution(elu(x)))) of x [B, H, W, C], with 3 x 3 convolutions to C channels.

    It begins as the identity. Source: He et al. 2016, arXiv 1603.05027, without batch normalisation.
    """

    def build(self, input_shape) -> None:
        self.first = _convolution(keras.layers.Conv2D, input_shape[-1], 3, 1, elu, name="first")
        self.second = _convolution(
            keras.layers.Conv2D, input_shape[-1], 3, 1, name="second", kernel_initializer="zeros"
        )
        self.first.build(input_shape)
        self.second.build(input_shape)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + self.second(self.first(elu(x)))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape


# He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
def _dense(units, **kwargs):
    return keras.layers.Dense(units, elu, kernel_initializer="he_normal", **kwargs)


def _convolution(layer, channels, side, stride, activation=None, **kwargs):
    """A Conv2D or Conv2DTranspose whose kernel is a square of `side`."""
    kwargs = {"kernel_initializer": "he_normal" if activation else "glorot_uniform"} | kwargs
    # Said here, because users may have set another default for Keras.
    kwargs |= {"padding": "same", "data_format": "channels_last", "strides": stride, "dtype": "float32"}
    return layer(channels, side, activation=activation, **kwargs)


def coarsest_cell(channels: Sequence[int]) -> int:
    """Pixels along a side of what is one place at the last resolution: heights and widths must be multiples of it."""
    return 2 ** (len(channels) - 1)


def _steps(channels, image_shape):
    """For each resolution that has channels: how many, and what the one before is divided by."""
    grid, _ = grid_and_channels(image_shape)
    if len(grid) != 2 or any(side % coarsest_cell(channels) for side in grid):
        raise ValueError(
            f"channels at {len(channels)} resolutions need images whose height and width are multiples of "
            f"{coarsest_cell(channels)}. Received: {tuple(image_shape)}."
        )
    if not channels[-1]:
        raise ValueError(f"channels must not end in 0. Received: {tuple(channels)}.")
    steps, before = [], 0
    for i, num in enumerate(channels):
        if num:
            steps.append((num, 2 ** (i - before)))
            before = i
    return steps
