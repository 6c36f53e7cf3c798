"""python -m benchmarks.price [--dataset=mnist] [--data_dir=FOLDER] [--seeds=0-2]: what a graph of k edges is worth.

For each seed a model is trained without edges. From its weights, every graph then trains for the same 400 steps, and is
measured on the same validation images: what is left after k removals of the edge that is worth least, random graphs of
as many edges, and random trees, in which each node but the root has one parent. This says how the nats rise with the
number of edges, and what a price leaves.

A seed that is in the results is skipped. --table prints what is there, and --picture=FILE draws it.
"""

import argparse
import json
import pathlib
import time

import keras
import matplotlib.figure
import numpy as np

from tf_ldiaf import LDIAF, Config, data
from tf_ldiaf.layers.gates import all_gates_open, edges_of
from tf_ldiaf.results.files import write_atomically
from tf_ldiaf.structure import remove_edges, with_edges
from tf_ldiaf.structure.refits import Refits, mean_and_stderr
from tf_ldiaf.training.optimizers import make_optimizer

RESULTS = pathlib.Path(__file__).parent / "results" / "price.json"
SETTINGS = {
    "mnist": {"epochs": 40, "batch_size": 256, "optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.2},
    "digits": {"epochs": 40, "batch_size": 64, "encoder_units": (256, 128), "decoder_units": (128, 256)},
}
_RANDOM, _SIZES = 3, (2, 4, 6, 8)  # random graphs of each of these numbers of edges
_HELD_OUT = 4000
_TREE_EDGES = 4  # of trees of five nodes, which all settings have


def measure(dataset: str, data_dir: str | None, decoder: str, seed: int) -> dict:
    """The nats of graphs, less those without edges: pairs of mean and standard error over images."""
    began = time.monotonic()
    config = Config(
        method="ldiaf", edges="none", dataset=dataset, data_dir=data_dir, decoder=decoder, **SETTINGS[dataset]
    )
    images = data.load_training(config, seed)
    x, held_out = images.train, images.valid[:_HELD_OUT]
    keras.utils.set_random_seed(seed)
    model = LDIAF.from_settings(config)
    steps = len(x) // config.batch_size * config.epochs
    model.compile(make_optimizer(config, steps), seed=seed, kl_warmup_epochs=config.kl_warmup_epochs)
    model.fit(x, batch_size=config.batch_size, epochs=config.epochs, verbose=0)
    model = with_edges(model, edges_of(all_gates_open(config.num_nodes)))
    settings = {"seed": seed, "weight_decay": config.weight_decay}
    elimination = remove_edges(model, x, held_out, edge_cost=np.inf, **settings)
    removed = [one[:2] for one in elimination.last]
    refits = Refits(model, x, held_out, **settings)
    none = refits.elbo([])
    random = np.random.default_rng(seed)
    graphs = {f"learned {len(removed) - k}": [removed[k:]] for k in range(len(removed))}
    graphs |= {
        f"random {size}": [[removed[i] for i in random.permutation(len(removed))[:size]] for _ in range(_RANDOM)]
        for size in _SIZES
    }
    num = config.num_nodes
    trees = np.random.default_rng([seed, 1])
    graphs["tree"] = [[(int(trees.integers(n + 1, num + 1)), n) for n in range(1, num)] for _ in range(_RANDOM)]
    found = {
        name: [rounded(mean_and_stderr(refits.elbo(edges) - none)) for edges in some] for name, some in graphs.items()
    }
    return {
        "without edges": rounded(mean_and_stderr(none)),
        "worth": {f"{one.parent}-{one.child}": rounded(one[2:4]) for one in elimination.history[: len(removed)]},
        "removed": [list(map(int, edge)) for edge in removed],
        "nats": found,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def rounded(numbers) -> list[float]:
    return [round(float(number), 4) for number in numbers]


def worth_table(results: dict) -> str:
    """What each edge of the graph with all edges is worth: a row for each seed."""
    lines = []
    for name, of_seeds in results.items():
        for seed, found in of_seeds.items():
            worth = found.get("worth", {})  # older results do not have them
            if worth and not lines:
                lines = [f"| data | seed | {' | '.join(worth)} |", "|---" * (len(worth) + 2) + "|"]
            if worth:
                cells = ["{:.2f} +- {:.2f}".format(*pair) for pair in worth.values()]
                lines.append(f"| {' | '.join([name, seed, *cells])} |")
    return "\n".join(lines)


def table(results: dict) -> str:
    lines = [
        "| data | seed | ELBO without edges | edges | learned | random | random trees |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_seeds in results.items():
        for seed, found in of_seeds.items():
            for size in range(1, len(found["removed"]) + 1):
                [[nats, stderr]] = found["nats"][f"learned {size}"]
                random = [pair[0] for pair in found["nats"].get(f"random {size}", [])]
                cells = [name, seed, "{:.2f} +- {:.2f}".format(*found["without edges"]), size]
                cells += [f"{nats:.2f} +- {stderr:.2f}", " ".join(f"{value:.2f}" for value in sorted(random))]
                trees = [nats for nats, _ in found["nats"]["tree"]] if size == _TREE_EDGES else []
                cells.append(" ".join(f"{value:.2f}" for value in sorted(trees)))
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def picture(results: dict) -> matplotlib.figure.Figure:
    """Nats against edges: a line for each seed, with two standard errors, and a dot for each random graph."""
    figure = matplotlib.figure.Figure(figsize=(5 * len(results), 3.6), dpi=120, layout="constrained")
    for i, (name, of_seeds) in enumerate(results.items(), start=1):
        axes = figure.add_subplot(1, len(results), i, title=name, xlabel="edges", ylabel="nats more than without edges")
        for colour, (seed, found) in zip(("#26547c", "#c1440e", "#4f7942"), of_seeds.items(), strict=False):
            sizes = range(len(found["removed"]) + 1)
            learned = np.array([(0, 0)] + [found["nats"][f"learned {size}"][0] for size in sizes[1:]])
            axes.errorbar(sizes, learned[:, 0], 2 * learned[:, 1], label=f"learned, seed {seed}", color=colour)
            random = [(size, pair[0]) for size in sizes for pair in found["nats"].get(f"random {size}", [])]
            axes.plot(
                *zip(*random, strict=True), "o", color=colour, alpha=0.5, mfc="none", label=f"random, seed {seed}"
            )
            trees = [nats for nats, _ in found["nats"]["tree"]]
            axes.plot([_TREE_EDGES] * len(trees), trees, "^", color=colour, label=f"random trees, seed {seed}")
        axes.set_xlim(-5, len(found["removed"]) + 0.5)
        axes.set_xticks(range(0, len(found["removed"]) + 1, 2))
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize="small")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist", choices=SETTINGS)
    parser.add_argument("--data_dir", help="where TFDS keeps its mnist")
    parser.add_argument("--decoder", default="dense", choices=["dense", "additive"])
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", type=pathlib.Path)
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    name = args.dataset if args.decoder == "dense" else f"{args.dataset}, {args.decoder}"
    for seed in [] if args.table or args.picture else map(str, range(first, last + 1)):
        results = json.loads(args.results.read_text()) if args.results.exists() else {}
        if seed not in results.get(name, {}):
            results.setdefault(name, {})[seed] = measure(args.dataset, args.data_dir, args.decoder, int(seed))
            write_atomically(args.results, json.dumps(results))
    results = json.loads(args.results.read_text())
    print(table(results), worth_table(results), sep="\n\n")
    if args.picture:
        picture(results).savefig(args.picture)


if __name__ == "__main__":
    main()
