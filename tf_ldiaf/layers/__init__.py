"""What has weights: Keras layers, each usable alone."""

from tf_ldiaf.layers.decoders import AdditiveDecoder, MaskedDecoder
from tf_ldiaf.layers.encoders import ResidualBlock
from tf_ldiaf.layers.flows import InverseAutoregressiveFlow, MaskedAutoregressiveFlow
from tf_ldiaf.layers.gates import Gates
from tf_ldiaf.layers.latent_graph import LatentGraph
from tf_ldiaf.layers.likelihoods import BernoulliLikelihood, Categorical, DiscretizedLogistic
from tf_ldiaf.layers.networks import GaussianNetworks
from tf_ldiaf.layers.priors import MixturePrior
from tf_ldiaf.layers.stacked import StackedDense

__all__ = [
    "AdditiveDecoder", "BernoulliLikelihood", "Categorical", "DiscretizedLogistic", "Gates", "GaussianNetworks",
    "InverseAutoregressiveFlow", "LatentGraph", "MaskedAutoregressiveFlow", "MaskedDecoder", "MixturePrior",
    "ResidualBlock", "StackedDense",
]  # fmt: skip
