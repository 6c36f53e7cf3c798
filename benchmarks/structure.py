"""python -m benchmarks.structure [--rows=PATTERN] [--seeds=1000-1019]: is the learned graph the true one?

Trains on images of `benchmarks.known_graphs`, 20 random graphs for each row, and compares edges. A graph that is in the
results is skipped, so the same command may be given again at any time. Settings are the same in all rows. They were
chosen on graphs with seeds below 1000. Minutes are those of the machine, on which other work may have run.

--table prints what is in the results.
"""

import argparse
import fnmatch
import itertools
import json
import pathlib
import time

import keras
import numpy as np
from sklearn.neighbors import KNeighborsRegressor

import tf_ldiaf
from benchmarks.known_graphs import KnownGraph, patch_masks
from tf_ldiaf import structure
from tf_ldiaf.layers import AdditiveDecoder, MaskedDecoder
from tf_ldiaf.layers.gates import adjacency_of, all_gates_open, edges_of
from tf_ldiaf.results.files import write_atomically

RESULTS = pathlib.Path(__file__).parent / "results" / "structure.json"
_NOISE = {1: 0.5, 2: 0.4}  # by node_dim
_EPOCHS, _BATCH, _RATE, _HELD_OUT = 40, 128, 2e-3, 2500
_TRAININGS, _ROLE_EPOCHS, _PIXEL_COST = 3, 25, 0.03  # where nodes have to find their roles
_NEIGHBOURS = 20


def learn(
    seed: int,
    node_dim: int,
    num_nodes: int = 5,
    num_images: int = 10_000,
    side: int = 8,
    contrast: float = 4.0,
    num_flow_steps: int = 0,
    observed: bool = False,
) -> dict:
    """Learns one graph; what was found, for JSON."""
    began, truth = time.monotonic(), KnownGraph(seed, num_nodes, node_dim, _NOISE[node_dim])
    z = [truth.nodes(num_images, 1), truth.nodes(_HELD_OUT, 2)]
    if observed:
        x, held_out = (part.astype("float32") for part in z)
        keras.utils.set_random_seed(seed)
        model = structure.ObservedNodes(num_nodes, node_dim, 0, edges=edges_of(all_gates_open(num_nodes)))
        model = trained(model, x, seed, _EPOCHS, phases=2)
    else:
        x, held_out = (truth.patches(part, i, side, contrast) for i, part in enumerate(z))
        decoder = MaskedDecoder(patch_masks(num_nodes, side), node_dim)
        model = fitted(x, seed, num_nodes, node_dim, decoder, epochs=_EPOCHS, num_flow_steps=num_flow_steps)
    gates = model.gates.adjacency().numpy()
    found = structure.remove_edges(structure.with_edges(model, model.edges), x, held_out, seed=seed)
    worth = np.zeros((num_nodes, num_nodes))
    for edge in found.last:
        worth[edge.child - 1, edge.parent - 1] = edge.nats
    return {
        "true": truth.adjacency.tolist(),
        "gates": gates.astype(int).tolist(),
        "found": adjacency_of(num_nodes, found.edges).astype(int).tolist(),
        "nats": worth.round(4).tolist(),
        "minutes": round((time.monotonic() - began) / 60, 2),
    }


def learn_order(
    seed: int, node_dim: int, roles: str, overlapping: bool = False, num_nodes: int = 5, num_images: int = 10_000
) -> dict:
    """Learns one graph whose order is not told; `roles` says what is known of the nodes."""
    began, truth = time.monotonic(), KnownGraph(seed, num_nodes, node_dim, _NOISE[node_dim])
    z = [truth.nodes(num_images, 1), truth.nodes(_HELD_OUT, 2)]
    elbo = lead = None  # only some ways of learning have them
    if roles == "seen":
        codes, found = z[1], structure.best_order(*z, seed=seed)
        edges, lead = found.edges, found.lead
    else:
        x, held_out = (truth.curved(part, i, overlapping=overlapping) for i, part in enumerate(z))
        if roles == "none":
            model = fitted(x, seed, num_nodes, node_dim, None, epochs=_EPOCHS)
            model = structure.with_edges(model, model.edges)
            edges = structure.remove_edges(model, x, held_out, seed=seed).edges
        else:
            elbo, model = best_of_trainings(x, held_out, seed, num_nodes, node_dim, roles)
            found = structure.search(model, x, held_out, seed=seed)
            # Its top-down networks have not seen the new parents; without them its codes are those that were searched.
            model, edges, lead = structure.with_edges(found.model, []), found.edges, found.lead
        codes = model.encode(held_out).numpy()
    shares = explained(z[1], codes)
    true_node = max(itertools.permutations(range(num_nodes)), key=lambda nodes: shares[nodes, range(num_nodes)].sum())
    adjacency = np.zeros((num_nodes, num_nodes), int)
    for parent, child in edges:
        adjacency[true_node[child - 1], true_node[parent - 1]] = 1
    return {
        "true": truth.adjacency.tolist(),
        "found": adjacency.tolist(),
        "explained": shares[true_node, range(num_nodes)].round(3).tolist(),
        "elbo": elbo and round(float(elbo), 3),
        "lead": lead and round(float(lead), 4),
        "minutes": round((time.monotonic() - began) / 60, 2),
    }


def best_of_trainings(x, held_out, seed, num_nodes, node_dim, roles) -> tuple[float, tf_ldiaf.LDIAF]:
    """A model without edges: one of parts that are given, or the best of several whose nodes find their pictures.

    With it its ELBO of the held-out images.
    """
    models = []
    for i in range(1 if roles == "masks" else _TRAININGS):
        if roles == "masks":
            decoder = MaskedDecoder(patch_masks(num_nodes, x.shape[1]), node_dim)
        else:
            decoder = AdditiveDecoder(num_nodes, node_dim, x.shape[1:], pixel_cost=_PIXEL_COST)
        model = fitted(x, seed + 10_000 * i, num_nodes, node_dim, decoder, epochs=_ROLE_EPOCHS, edges=[])
        models.append((model.evaluate(held_out, batch_size=500, verbose=0, return_dict=True)["elbo"], model))
    return max(models, key=lambda pair: pair[0])


def fitted(x, seed, num_nodes, node_dim, decoder, *, epochs, edges=None, num_flow_steps=0) -> tf_ldiaf.LDIAF:
    """A model that is made and trained: with gates that are learned, or with given edges."""
    keras.utils.set_random_seed(seed)
    model = tf_ldiaf.LDIAF(num_nodes, node_dim, num_flow_steps, edges=edges, decoder=decoder, encoder_units=[128, 64])
    if edges is None:
        return trained(model, x, seed, epochs, phases=2)
    return trained(model, x, seed, epochs, phases=1, kl_warmup_epochs=epochs // 2)


def trained(model, x, seed, epochs, phases, **objective) -> tf_ldiaf.LDIAF:
    """The model after training, in which the rate falls to 0 in each phase."""
    steps = len(x) // _BATCH * epochs // phases
    rate = keras.optimizers.schedules.CosineDecayRestarts(_RATE, steps, t_mul=1.0)
    model.compile(keras.optimizers.Adam(rate), seed=seed, structure_epochs=epochs, **objective)
    model.fit(x, batch_size=_BATCH, epochs=epochs, verbose=0)
    return model


def explained(true, codes) -> np.ndarray:
    """R^2 with which model node m tells true node k, by nearest neighbours: [k, m]; fitted on half, counted on half."""
    half, codes = len(true) // 2, codes.reshape(true.shape)

    def share(k, m):
        neighbours = KNeighborsRegressor(_NEIGHBOURS).fit(codes[:half, m], true[:half, k])
        return neighbours.score(codes[half:, m], true[half:, k])

    return np.array([[share(k, m) for m in range(true.shape[1])] for k in range(true.shape[1])])


ROWS = {
    "A, D = 1": (learn, {"node_dim": 1, "observed": True}),
    "A, D = 2": (learn, {"node_dim": 2, "observed": True}),
    "A, order unknown, D = 1": (learn_order, {"node_dim": 1, "roles": "seen"}),
    "A, order unknown, D = 2": (learn_order, {"node_dim": 2, "roles": "seen"}),
    "B, 8 x 8, D = 2": (learn, {"node_dim": 2}),
    "B, 8 x 8, D = 1": (learn, {"node_dim": 1}),
    "B, 5 x 5, D = 2": (learn, {"node_dim": 2, "side": 5, "contrast": 2.0}),
    "B, 5 x 5, D = 1": (learn, {"node_dim": 1, "side": 5, "contrast": 2.0}),
    "B, 8 x 8, D = 2, T = 2": (learn, {"node_dim": 2, "num_flow_steps": 2}),
    "B, order unknown, D = 1": (learn_order, {"node_dim": 1, "roles": "masks"}),
    "B, order unknown, D = 2": (learn_order, {"node_dim": 2, "roles": "masks"}),
    "C, patches, D = 1": (learn_order, {"node_dim": 1, "roles": "additive"}),
    "C, patches, D = 2": (learn_order, {"node_dim": 2, "roles": "additive"}),
    "C, overlapping, D = 1": (learn_order, {"node_dim": 1, "roles": "additive", "overlapping": True}),
    "C, dense decoder, D = 1": (learn_order, {"node_dim": 1, "roles": "none"}),
    "B, 8 x 8, D = 2, N = 8, 2,000 images": (learn, {"node_dim": 2, "num_nodes": 8, "num_images": 2000}),
    "B, 8 x 8, D = 2, N = 8, 50,000 images": (learn, {"node_dim": 2, "num_nodes": 8, "num_images": 50_000}),
}


def scores(graph) -> tuple[float, float, int]:
    """F1; F1 that as many edges at random places would have; and how many edges are missing or too many."""
    found, true = np.array(graph["found"]), np.array(graph["true"])
    num_found, num_true, possible = found.sum(), true.sum(), len(true) * (len(true) - 1)
    if "explained" not in graph:
        possible /= 2  # the order is given
    both = num_found + num_true
    return 2 * (found & true).sum() / both, 2 * num_found * num_true / possible / both, int((found != true).sum())


def auroc(nats, true) -> float:
    """How often a true edge is worth more than one that is not there; what its gate shut is worth 0."""
    upper = np.triu_indices(len(true), 1)
    nats, true = np.array(nats)[upper], np.array(true)[upper] > 0
    less = nats[true][:, np.newaxis] - nats[~true]
    return float(((less > 0) + 0.5 * (less == 0)).mean())


def table(results: dict) -> str:
    lines = [
        "| row | graphs | F1 | exact | SHD | F1 by chance | F1 of the gates alone | AUROC | explained | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        graphs = list(results.get(row, {}).values())
        if graphs:
            f1, chance, shd = np.transpose([scores(graph) for graph in graphs])
            error = f1.std(ddof=1) / len(f1) ** 0.5 if len(f1) > 1 else np.nan
            others = 3 * ["-"]
            if "gates" in graphs[0]:
                gates = [scores(graph | {"found": graph["gates"]})[0] for graph in graphs]
                others[0] = f"{np.mean(gates):.3f}"
                others[1] = f"{np.mean([auroc(graph['nats'], graph['true']) for graph in graphs]):.3f}"
            else:
                shares = np.array([graph["explained"] for graph in graphs])
                others[2] = f"{shares.mean():.2f}, {(shares >= 0.8).mean():.0%}"
            with_error = f"{f1.mean():.3f}" + (f" +- {error:.3f}" if len(f1) > 1 else "")
            cells = [row, len(graphs), with_error, (shd == 0).sum(), f"{shd.mean():.2f}"]
            cells += [f"{chance.mean():.2f}", *others, f"{np.mean([graph['minutes'] for graph in graphs]):.1f}"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="*")
    parser.add_argument("--seeds", default="1000-1019")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    for row in [] if args.table else fnmatch.filter(ROWS, args.rows):
        for seed in range(first, last + 1):
            results = json.loads(args.results.read_text()) if args.results.exists() else {}
            if str(seed) not in results.get(row, {}):
                how, settings = ROWS[row]
                found = how(seed, **settings)
                print(f"{row}, {seed}: F1 {scores(found)[0]:.2f}", flush=True)
                results.setdefault(row, {})[str(seed)] = found
                write_atomically(args.results, json.dumps(results))
    print(table(json.loads(args.results.read_text())))


if __name__ == "__main__":
    main()
