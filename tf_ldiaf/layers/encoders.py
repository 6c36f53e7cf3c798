"""The networks between images and latents: ordinary Keras models, dense or with convolutions."""

import math
import typing
from collections.abc import Sequence

import keras

from tf_ldiaf.layers.float32 import in_float32
from tf_ldiaf.probability.activations import elu
from tf_ldiaf.probability.likelihoods import grid_and_channels

# A cell of the grid on which convolutions work is a square of so many pixels a side.
CELL = 4


@in_float32()
def make_encoder(units: Sequence[int], channels: Sequence[int], image_shape: Sequence[int]) -> keras.Sequential:
    """Features [B, units[-1]] of images [B, H * W * C]: 3 x 3 convolutions if there are `channels`, then dense layers.

    Args:
        units: widths of the dense layers.
        channels: of the convolutions on a grid of cells of 4 x 4 pixels, from the last to the first.
        image_shape: (H, W) or (H, W, C); any shape without channels.

    Raises:
        ValueError: with channels, H or W is no multiple of 4.
    """
    layers: list[typing.Any] = []
    if channels:
        (rows, columns), depth = _cells(image_shape)
        layers += [keras.layers.Reshape((rows, CELL, columns, CELL * depth)), keras.layers.Permute((1, 3, 2, 4))]
        layers += [keras.layers.Reshape((rows, columns, CELL**2 * depth))]
        layers += [_convolution(num, elu, name=f"convolution_{i}") for i, num in enumerate(reversed(channels))]
        layers += [keras.layers.Reshape((-1,))]  # not Flatten, which obeys Keras's image_data_format
    layers += [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    return keras.Sequential(layers, name="encoder")


@in_float32()
def make_decoder(
    units: Sequence[int], channels: Sequence[int], image_shape: Sequence[int], numbers_per_pixel: int = 1
) -> keras.Sequential:
    """Numbers for each pixel, [B, H * W * numbers], of [B, inputs]: dense ELU layers, then 3 x 3 convolutions if any.

    With `channels`, the dense layers end in `channels[0]` numbers for each cell of 4 x 4 pixels. A convolution to each
    of the further channels follows, and one to the pixels of a cell. Otherwise the last layer is dense.

    Args, raises: as for `make_encoder`. Of the likelihood are
        numbers_per_pixel: how many each pixel, a place with all its channels, takes.
    """
    layers: list[typing.Any] = [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    if channels:
        (rows, columns), _ = _cells(image_shape)
        layers += [_dense(rows * columns * channels[0], name="grid")]
        layers += [keras.layers.Reshape((rows, columns, channels[0]))]
        layers += [_convolution(num, elu, name=f"convolution_{i}") for i, num in enumerate(channels[1:])]
        layers += [_convolution(CELL**2 * numbers_per_pixel, name="output")]
        layers += [keras.layers.Reshape((rows, columns, CELL, CELL * numbers_per_pixel))]
        layers += [keras.layers.Permute((1, 3, 2, 4)), keras.layers.Reshape((-1,))]
    else:
        num_pixels = math.prod(grid_and_channels(image_shape)[0])
        layers += [keras.layers.Dense(num_pixels * numbers_per_pixel, name="output")]
    return keras.Sequential(layers, name="decoder")


# He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
def _dense(units, **kwargs):
    return keras.layers.Dense(units, elu, kernel_initializer="he_normal", **kwargs)


def _convolution(units, activation=None, **kwargs):
    scale = "he_normal" if activation else "glorot_uniform"
    # Said here, because users may have set another default for Keras.
    kwargs |= {"padding": "same", "data_format": "channels_last"}
    return keras.layers.Conv2D(units, 3, activation=activation, kernel_initializer=scale, **kwargs)


def _cells(image_shape):
    """(rows, columns) of cells, and the channels of a pixel."""
    grid, depth = grid_and_channels(image_shape)
    if len(grid) != 2 or any(side % CELL for side in grid):
        raise ValueError(
            f"channels need images whose height and width are multiples of {CELL}. Received: {tuple(image_shape)}."
        )
    return tuple(side // CELL for side in grid), depth
