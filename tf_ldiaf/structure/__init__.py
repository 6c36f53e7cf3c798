"""What the latent graph of a model is worth."""

from tf_ldiaf.structure.graphs import with_edges
from tf_ldiaf.structure.observed import ObservedNodes
from tf_ldiaf.structure.worth import EdgeWorth, NodeWorth, edge_worth, node_worth

__all__ = ["EdgeWorth", "NodeWorth", "ObservedNodes", "edge_worth", "node_worth", "with_edges"]
