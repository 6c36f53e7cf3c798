"""python -m benchmarks.structure [--rows=PATTERN] [--seeds=1000-1019]: is the learned graph the true one?

Trains on images of `benchmarks.known_graphs`, 20 random graphs for each row, and compares edges. A graph that is in the
results is skipped, so the same command may be given again at any time. Settings are the same in all rows. They were
chosen on graphs with seeds below 1000. Minutes are those of the machine, on which other work may have run.

--table prints what is in the results.
"""

import argparse
import fnmatch
import json
import pathlib
import time

import keras
import numpy as np

import tf_ldiaf
from benchmarks.known_graphs import KnownGraph, patch_masks
from tf_ldiaf import structure
from tf_ldiaf.layers import MaskedDecoder
from tf_ldiaf.layers.gates import adjacency_of, all_gates_open, edges_of
from tf_ldiaf.results.run_folder import write_atomically

RESULTS = pathlib.Path(__file__).parent / "results" / "structure.json"
_NOISE = {1: 0.5, 2: 0.4}  # by node_dim
_EPOCHS, _BATCH, _RATE, _HELD_OUT = 40, 128, 2e-3, 2500
ROWS = {
    "A, D = 1": {"node_dim": 1, "observed": True},
    "A, D = 2": {"node_dim": 2, "observed": True},
    "B, 8 x 8, D = 2": {"node_dim": 2},
    "B, 8 x 8, D = 1": {"node_dim": 1},
    "B, 5 x 5, D = 2": {"node_dim": 2, "side": 5, "contrast": 2.0},
    "B, 5 x 5, D = 1": {"node_dim": 1, "side": 5, "contrast": 2.0},
    "B, 8 x 8, D = 2, T = 2": {"node_dim": 2, "num_flow_steps": 2},
    "B, 8 x 8, D = 2, N = 8, 2,000 images": {"node_dim": 2, "num_nodes": 8, "num_images": 2000},
    "B, 8 x 8, D = 2, N = 8, 50,000 images": {"node_dim": 2, "num_nodes": 8, "num_images": 50_000},
}


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
    keras.utils.set_random_seed(seed)
    if observed:
        x, held_out = (part.astype("float32") for part in z)
        model = structure.ObservedNodes(num_nodes, node_dim, 0, edges=edges_of(all_gates_open(num_nodes)))
    else:
        x, held_out = (truth.patches(part, i, side, contrast) for i, part in enumerate(z))
        decoder = MaskedDecoder(patch_masks(num_nodes, side), node_dim)
        model = tf_ldiaf.LDIAF(num_nodes, node_dim, num_flow_steps, decoder=decoder, encoder_units=[128, 64])
    steps = num_images // _BATCH * _EPOCHS // 2
    rate = keras.optimizers.schedules.CosineDecayRestarts(_RATE, steps, t_mul=1.0)
    model.compile(keras.optimizers.Adam(rate), seed=seed, structure_epochs=_EPOCHS)
    model.fit(x, batch_size=_BATCH, epochs=_EPOCHS, verbose=0)
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


def scores(found, true) -> tuple[float, float, int]:
    """F1; F1 that as many edges at random places would have; and how many edges are missing or too many."""
    found, true = np.array(found), np.array(true)
    num_found, num_true, possible = found.sum(), true.sum(), len(true) * (len(true) - 1) / 2
    both = num_found + num_true
    by_chance = 2 * num_found * num_true / possible / both
    return 2 * (found & true).sum() / both, by_chance, int((found != true).sum())


def auroc(nats, true) -> float:
    """How often a true edge is worth more than one that is not there; what its gate shut is worth 0."""
    upper = np.triu_indices(len(true), 1)
    nats, true = np.array(nats)[upper], np.array(true)[upper] > 0
    less = nats[true][:, np.newaxis] - nats[~true]
    return float(((less > 0) + 0.5 * (less == 0)).mean())


def table(results: dict) -> str:
    lines = [
        "| row | graphs | F1 | exact | SHD | F1 of the gates alone | F1 by chance | AUROC | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        graphs = list(results.get(row, {}).values())
        if graphs:
            f1, chance, shd = np.transpose([scores(graph["found"], graph["true"]) for graph in graphs])
            gates = [scores(graph["gates"], graph["true"])[0] for graph in graphs]
            area = np.mean([auroc(graph["nats"], graph["true"]) for graph in graphs])
            error = f1.std(ddof=1) / len(f1) ** 0.5 if len(f1) > 1 else np.nan
            minutes = np.mean([graph["minutes"] for graph in graphs])
            lines.append(
                f"| {row} | {len(graphs)} | {f1.mean():.3f} +- {error:.3f} | {(shd == 0).sum()} | {shd.mean():.2f} | "
                f"{np.mean(gates):.3f} | {chance.mean():.2f} | {area:.3f} | {minutes:.1f} |"
            )
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
                found = learn(seed, **ROWS[row])
                print(f"{row}, {seed}: F1 {scores(found['found'], found['true'])[0]:.2f}", flush=True)
                results.setdefault(row, {})[str(seed)] = found
                write_atomically(args.results, json.dumps(results))
    print(table(json.loads(args.results.read_text())))


if __name__ == "__main__":
    main()
