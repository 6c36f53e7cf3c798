"""A graph whose edges are worth their price: those that are not are removed one by one."""

import typing
from collections.abc import Callable, Sequence

import numpy as np

from tf_ldiaf import data
from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.errors import NonFiniteError
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.structure.refits import Refits

_ERRORS = 2.0  # standard errors that a worth must be away from 0


class Measured(typing.NamedTuple):
    """What an edge was worth when it was measured."""

    parent: int
    child: int
    nats: float  # per image
    stderr: float
    num_edges: int  # of the graph that it was then part of


class Elimination(typing.NamedTuple):
    """What `remove_edges` found."""

    edges: list[tuple[int, int]]  # pairs (parent, child): those that are left
    last: list[Measured]  # of each edge, what it was worth when it was measured last; in the order of removal
    history: list[Measured]  # all that was measured


def remove_edges(
    model: LDIAF,
    x: np.ndarray | data.Records,
    held_out: np.ndarray | None = None,
    *,
    edge_cost: float = TrainingSettings.edge_cost,
    history: Sequence[Measured] = (),
    on_measured: Callable[[list[Measured]], None] = lambda history: None,
    **refits: typing.Any,
) -> Elimination:
    """Removes edges until the one that is worth least is worth more than `edge_cost` and two standard errors.

    All edges are measured (Eq. worth). The one that is worth least goes, if that is not enough; the model trains on
    without it, and the other edges of the same child are measured again. And so on.

    Args:
        model: a model that is trained with the edges to begin with. It is left as it is.
        x, held_out: images to train on, and to measure on, as of `edge_worth`.
        edge_cost: nats per image that an edge must be worth.
        history: what an elimination that was broken off had measured, to go on with.
        on_measured: called after each measurement with all so far.
        refits: the other arguments of `edge_worth`.

    Raises:
        ValueError, DataError, NonFiniteError: as of `edge_worth`.
    """
    if not edge_cost >= 0:
        raise ValueError(f"`edge_cost` must be at least 0. Received: {edge_cost}.")
    done, known = list(history), iter(history)
    trainings = Refits(model, x, held_out, **refits)
    last: dict[tuple[int, int], Measured] = {}
    removed: list[tuple[int, int]] = []
    to_measure = trainings.edges
    while True:
        for edge in to_measure:
            measured = next(known, None)
            if measured is None:
                measured = Measured(*edge, *trainings.worth(edge), len(trainings.edges))
                if not np.isfinite(measured.nats):
                    raise NonFiniteError(f"edges must have finite worths. Received: {measured}.")
                done.append(measured)
                on_measured(done)
            elif measured[:2] != tuple(edge):
                raise ValueError(
                    "history must be the whole `history` of an elimination from the same edges. Received: edge "
                    f"{measured.parent}-{measured.child} where {edge[0]}-{edge[1]} was measured."
                )
            last[edge] = measured
        least = min(trainings.edges, key=lambda edge: last[edge].nats, default=None)
        if least is None or last[least].nats > max(edge_cost, _ERRORS * last[least].stderr):
            return Elimination(trainings.edges, [last[edge] for edge in [*removed, *trainings.edges]], done)
        removed.append(least)
        trainings.remove(least)
        to_measure = [edge for edge in trainings.edges if edge[1] == least[1]]
