"""What the latent graph of a model is worth, and graphs whose edges are worth their price."""

from tf_ldiaf.structure.elimination import Elimination, Measured, remove_edges
from tf_ldiaf.structure.graphs import with_edges
from tf_ldiaf.structure.observed import ObservedNodes
from tf_ldiaf.structure.worth import EdgeWorth, NodeWorth, edge_worth, node_worth

__all__ = [
    "EdgeWorth",
    "Elimination",
    "Measured",
    "NodeWorth",
    "ObservedNodes",
    "edge_worth",
    "node_worth",
    "remove_edges",
    "with_edges",
]
