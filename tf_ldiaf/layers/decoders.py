"""Decoders in which each node draws a picture of its own."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.layers.stacked import StackedDense, dense_network
from tf_ldiaf.probability.likelihoods import grid_and_channels

_SMALLEST_VARIANCE = 1e-4  # of a logit: a square root's gradient has no bound at 0


@keras.saving.register_keras_serializable("tf_ldiaf")
class AdditiveDecoder(Float32Layer):
    """A decoder to which every node adds a picture of its own: logits(z) = sum_n picture_n(z_n).

    What a node draws can then be looked at: `pictures(z)`. Two trainings may number the nodes differently, and use
    other coordinates within a node.

    Called with latents [B, N * D] it gives the numbers that the likelihood needs, [B, pixels * numbers of each]: one
    logit for each pixel of 0 and 1.

    Trainings often end with a node that is spread over several others. A `pixel_cost` of 0.03 makes that rarer. Train
    several times, keep the model with the best ELBO, and train that one on with a cost of 0.

    Args:
        num_nodes: N.
        node_dim: D.
        image_shape: (H, W), or (H, W, C).
        units: hidden widths of each node's network.
        pixel_cost: what a training pays for each node and pixel, in nats per image: `pixel_cost` times the standard
            deviation, over the batch, of what the node adds to the pixel's logit. So few nodes draw each pixel. It is
            read when a model is compiled. Copies of the model pay it, too.
        numbers_per_pixel: what the likelihood says, see `layers.likelihoods`. None: as many as the pixel has channels,
            which is right for pixels of 0 and 1.

    Source: Lachapelle et al. 2023, arXiv 2307.02598.

    Example:

        >>> from tf_ldiaf import LDIAF
        >>> from tf_ldiaf.layers import AdditiveDecoder
        >>> model = LDIAF(num_nodes=3, node_dim=2, decoder=AdditiveDecoder(3, 2, (8, 8)))
    """

    def __init__(
        self,
        num_nodes: int,
        node_dim: int,
        image_shape: Sequence[int],
        units: Sequence[int] = (64, 64),
        pixel_cost: float = 0.0,
        numbers_per_pixel: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0.0 <= pixel_cost < math.inf:
            raise ValueError(f"pixel_cost must be at least 0 and finite. Received: {pixel_cost}.")
        self.num_nodes, self.node_dim, self.image_shape = num_nodes, node_dim, tuple(image_shape)
        self.units, self.pixel_cost, self.numbers_per_pixel = tuple(units), pixel_cost, numbers_per_pixel
        grid, channels = grid_and_channels(self.image_shape)
        widths = [*self.units, math.prod(grid) * (numbers_per_pixel or channels)]
        scales = ["he_normal"] * len(self.units) + ["glorot_uniform"]
        self.stack = [
            StackedDense(num_nodes, width, scale, name=f"dense_{i}")
            for i, (width, scale) in enumerate(zip(widths, scales, strict=True))
        ]
        for layer in self.stack:
            setattr(self, layer.name, layer)  # tf.train.Checkpoint does not look into lists

    def build(self, input_shape) -> None:
        width = self.node_dim
        if input_shape[-1] != self.num_nodes * width:
            raise ValueError(f"z must be latents [B, {self.num_nodes * width}]. Received: {input_shape}.")
        for layer in self.stack:
            layer.build((None, width))
            width = layer.units
        self.built = True

    def check_fits(self, num_nodes: int, node_dim: int, image_shape: tuple[int, ...]) -> None:
        """Says if a model has other nodes, or images of another height or width.

        Raises:
            ValueError: it has.
        """
        grids = [grid_and_channels(shape)[0] for shape in (self.image_shape, image_shape)]
        if (self.num_nodes, self.node_dim, grids[0]) != (num_nodes, node_dim, grids[1]):
            raise ValueError(
                f"decoder must be one of {num_nodes} nodes of {node_dim} dimensions and images {image_shape}. "
                f"Received: {self.num_nodes} of {self.node_dim} and {self.image_shape}."
            )

    def pictures(self, z: tf.Tensor) -> tf.Tensor:
        """What each node adds to the numbers: [N, B, pixels * numbers of each], of latents [B, N * D]."""
        nodes = tf.transpose(tf.reshape(z, [-1, self.num_nodes, self.node_dim]), [1, 0, 2])
        return dense_network([layer.weights_of() for layer in self.stack], nodes)

    def call(self, z: tf.Tensor, training: bool = False) -> tf.Tensor:
        pictures = self.pictures(z)
        if training and self.pixel_cost:
            variances = tf.math.reduce_variance(pictures, axis=1) + _SMALLEST_VARIANCE
            self.add_loss(self.pixel_cost * tf.reduce_sum(tf.sqrt(variances)))
        return tf.reduce_sum(pictures, axis=0)

    def get_config(self) -> dict:
        names = ["num_nodes", "node_dim", "image_shape", "units", "pixel_cost", "numbers_per_pixel"]
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("tf_ldiaf")
class MaskedDecoder(AdditiveDecoder):
    """A decoder in which every node draws its own part of the picture, for data whose parts are known.

    Parts may be the regions of a face, the sensors of a machine, the views of a scene. Node n draws the pixels where
    masks[n] is 1. So a node means its part, and the latent graph is between the parts.

    Args:
        masks: [N, H, W] of 0 and 1. Each pixel belongs to one node.
        node_dim: D.
        units: hidden widths of each node's network.
        numbers_per_pixel: as of `AdditiveDecoder`.

    Raises:
        ValueError: masks of another shape or with other numbers; a node without pixels; a pixel with two nodes or none.

    Example:

        >>> import numpy as np
        >>> from tf_ldiaf import LDIAF
        >>> from tf_ldiaf.layers import MaskedDecoder
        >>> masks = np.zeros((2, 8, 8))
        >>> masks[0, :, :4] = masks[1, :, 4:] = 1
        >>> model = LDIAF(num_nodes=2, node_dim=2, decoder=MaskedDecoder(masks, node_dim=2))
    """

    def __init__(self, masks, node_dim: int, units: Sequence[int] = (64, 64), **kwargs):
        self.masks = _checked_masks(masks)
        super().__init__(len(self.masks), node_dim, self.masks.shape[1:], units, **kwargs)

    def get_config(self) -> dict:
        others = ("num_nodes", "image_shape")
        base = {name: value for name, value in super().get_config().items() if name not in others}
        return base | {"masks": self.masks.tolist()}

    def pictures(self, z: tf.Tensor) -> tf.Tensor:
        masks = self.masks.reshape(self.num_nodes, 1, -1).repeat(self.numbers_per_pixel or 1, axis=-1)
        return super().pictures(z) * tf.constant(masks, tf.float32)


def _checked_masks(masks):
    masks = np.asarray(masks)
    if masks.ndim != 3 or not masks.size or not np.isin(masks, (0, 1)).all():
        found = f"an array of shape {masks.shape}" if masks.ndim != 3 or not masks.size else "other numbers"
        raise ValueError(f"masks must be [N, H, W] of 0 and 1. Received: {found}.")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"masks must give each node a pixel. Received: none for node {empty[0] + 1}.")
    owners = masks.sum(axis=0)
    if (owners != 1).any():
        row, column = np.argwhere(owners != 1)[0]
        raise ValueError(
            f"masks must give each pixel one node. Received: {int(owners[row, column])} for the one in row {row}, "
            f"column {column}."
        )
    return masks.astype("uint8")
