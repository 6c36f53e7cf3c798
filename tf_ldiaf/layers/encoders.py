"""The networks between images and latents: ordinary Keras models, dense or with convolutions."""

import math
import typing
from collections.abc import Sequence

import keras

from tf_ldiaf.layers.float32 import in_float32
from tf_ldiaf.probability.activations import elu

# A cell of the grid on which convolutions work is a square of so many pixels a side.
CELL = 4


@in_float32()
def make_encoder(units: Sequence[int], channels: Sequence[int], image_shape: Sequence[int]) -> keras.Sequential:
    """Features [B, units[-1]] of images [B, H * W]: 3 x 3 convolutions if there are `channels`, then dense ELU layers.

    Args:
        units: widths of the dense layers.
        channels: of the convolutions on a grid of cells of 4 x 4 pixels, from the last to the first.
        image_shape: (H, W); any shape without channels.

    Raises:
        ValueError: with channels, H or W is no multiple of 4.
    """
    layers: list[typing.Any] = []
    if channels:
        rows, columns = _grid(image_shape)
        layers += [keras.layers.Reshape((rows, CELL, columns, CELL)), keras.layers.Permute((1, 3, 2, 4))]
        layers += [keras.layers.Reshape((rows, columns, CELL**2))]
        layers += [_convolution(num, elu, name=f"convolution_{i}") for i, num in enumerate(reversed(channels))]
        layers += [keras.layers.Reshape((-1,))]  # not Flatten, which obeys Keras's image_data_format
    layers += [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    return keras.Sequential(layers, name="encoder")


@in_float32()
def make_decoder(units: Sequence[int], channels: Sequence[int], image_shape: Sequence[int]) -> keras.Sequential:
    """One number for each pixel, [B, H * W], of [B, inputs]: dense ELU layers, then 3 x 3 convolutions if any.

    With `channels`, the dense layers end in `channels[0]` numbers for each cell of 4 x 4 pixels. A convolution to each
    of the further channels follows, and one to the pixels of a cell. Otherwise the last layer is dense.

    Args, raises: as for `make_encoder`.
    """
    layers: list[typing.Any] = [_dense(width, name=f"dense_{i}") for i, width in enumerate(units)]
    if channels:
        rows, columns = _grid(image_shape)
        layers += [_dense(rows * columns * channels[0], name="grid")]
        layers += [keras.layers.Reshape((rows, columns, channels[0]))]
        layers += [_convolution(num, elu, name=f"convolution_{i}") for i, num in enumerate(channels[1:])]
        layers += [_convolution(CELL**2, name="output"), keras.layers.Reshape((rows, columns, CELL, CELL))]
        layers += [keras.layers.Permute((1, 3, 2, 4)), keras.layers.Reshape((-1,))]
    else:
        layers += [keras.layers.Dense(math.prod(image_shape), name="output")]
    return keras.Sequential(layers, name="decoder")


# He's scale, not Glorot's: through this many layers it is worth 4 nats after 4 epochs of MNIST.
def _dense(units, **kwargs):
    return keras.layers.Dense(units, elu, kernel_initializer="he_normal", **kwargs)


def _convolution(units, activation=None, **kwargs):
    scale = "he_normal" if activation else "glorot_uniform"
    # Said here, because users may have set another default for Keras.
    kwargs |= {"padding": "same", "data_format": "channels_last"}
    return keras.layers.Conv2D(units, 3, activation=activation, kernel_initializer=scale, **kwargs)


def _grid(image_shape):
    """(rows, columns) of cells."""
    if len(image_shape) != 2 or any(side % CELL for side in image_shape):
        raise ValueError(
            f"channels need images whose height and width are multiples of {CELL}. Received: {tuple(image_shape)}."
        )
    return tuple(side // CELL for side in image_shape)
