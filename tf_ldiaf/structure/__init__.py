"""What the latent graph of a model is worth, and graphs whose edges are worth their price."""

from tf_ldiaf.structure.elimination import Elimination, Measured, remove_edges
from tf_ldiaf.structure.graphs import renumbered, with_edges
from tf_ldiaf.structure.observed import ObservedNodes
from tf_ldiaf.structure.orders import Order, Search, best_order, search
from tf_ldiaf.structure.worth import EdgeWorth, NodeWorth, edge_worth, node_worth

__all__ = [
    "EdgeWorth",
    "Elimination",
    "Measured",
    "NodeWorth",
    "ObservedNodes",
    "Order",
    "Search",
    "best_order",
    "edge_worth",
    "node_worth",
    "remove_edges",
    "renumbered",
    "search",
    "with_edges",
]
