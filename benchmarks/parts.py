"""python -m benchmarks.parts [--dataset=mnist] [--data_dir=FOLDER] [--seeds=0-2]: nodes that draw parts of digits.

For each seed three models are trained alike, without edges: one with the ordinary decoder, one with an additive
decoder, and one with an additive decoder whose nodes pay for their pixels, except in the last epochs. This says how
many nats additive decoders cost. In the third model `structure.search` finds the order and the edges. Then seeds are
compared: do their nodes tell the same, and are their edges the same? All seeds have the same images.

A seed that is in the results is skipped. Models are kept in --models. They are needed for the comparison, and for
--picture=FILE, which draws what the nodes of the third models draw.
"""

import argparse
import itertools
import json
import pathlib
import time

import keras
import matplotlib.figure
import numpy as np
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

from benchmarks import price
from tf_ldiaf import LDIAF, Config, data, structure
from tf_ldiaf.results.files import write_atomically
from tf_ldiaf.structure.refits import mean_and_stderr
from tf_ldiaf.training.optimizers import make_optimizer

RESULTS = pathlib.Path(__file__).parent / "results" / "parts.json"
_EPOCHS = {"mnist": (30, 10), "digits": (60, 20)}  # with the cost of pixels, if there is one; and after that, without
_PIXEL_COST = 0.03
_HELD_OUT, _AT_ONCE = 4000, 500
_KINDS = {"dense": ("dense", 0.0), "additive": ("additive", 0.0), "pixels cost": ("additive", _PIXEL_COST)}
_NEIGHBOURS = 20
_SHOWN = 6  # digits of a picture


def settings(dataset: str, data_dir: str | None, decoder: str = "dense") -> Config:
    others = price.SETTINGS[dataset]
    return Config(method="ldiaf", edges="none", dataset=dataset, data_dir=data_dir, decoder=decoder, **others)


def images(dataset: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on, and to measure on."""
    found = data.load_training(settings(dataset, data_dir), seed=0)
    return found.train, found.valid[:_HELD_OUT]


def trained(config: Config, x: np.ndarray, seed: int, pixel_cost: float) -> LDIAF:
    """A model after both parts of its training; the learning rate falls to 0 in each."""
    keras.utils.set_random_seed(seed)
    model = LDIAF.from_settings(config)
    for cost, epochs in zip((pixel_cost, 0.0), _EPOCHS[config.dataset], strict=True):
        if config.decoder == "additive":
            model.decoder.pixel_cost = cost
        steps = len(x) // config.batch_size * epochs
        model.compile(make_optimizer(config, steps), seed=seed, kl_warmup_epochs=config.kl_warmup_epochs)
        model.fit(x, batch_size=config.batch_size, epochs=epochs, verbose=0)
    return model


def measure(dataset: str, data_dir: str | None, seed: int, models: pathlib.Path) -> dict:
    """Trains the models of a seed, and searches the graph of the last."""
    began, elbo = time.monotonic(), {}
    x, held_out = images(dataset, data_dir)
    for kind, (decoder, pixel_cost) in _KINDS.items():
        model = trained(settings(dataset, data_dir, decoder), x, seed, pixel_cost)
        starts = range(0, len(held_out), _AT_ONCE)
        parts = [model.bounds(held_out[i : i + _AT_ONCE], 10, seed, first_image=i)["elbo"] for i in starts]
        elbo[kind] = np.concatenate(parts)
    model.save(model_file(models, dataset, seed))
    found, worth = structure.search(model, x, held_out, seed=seed), structure.node_worth(model, held_out, seed=seed)
    old = dict(enumerate(found.nodes, start=1))
    return {
        "elbo": {kind: price.rounded(mean_and_stderr(values)) for kind, values in elbo.items()},
        "more than dense": {kind: price.rounded(mean_and_stderr(elbo[kind] - elbo["dense"])) for kind in elbo},
        "kl": price.rounded(worth.kl),
        "edges": [[old[parent], old[child]] for parent, child in found.edges],
        "lead": price.rounded([found.lead, found.lead_stderr]),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


def model_file(models: pathlib.Path, dataset: str, seed: int | str) -> pathlib.Path:
    return models / f"{dataset}_{seed}.keras"


def load(models: pathlib.Path, dataset: str, seed: int | str) -> LDIAF:
    return keras.models.load_model(model_file(models, dataset, seed))  # pyright: ignore[reportReturnType]


def told(codes, others) -> np.ndarray:
    """Which share of the variance of a node's code can be told from a node of another model: [k, m], k from m.

    Nearest neighbours are looked up in one half of the images, for the other half.
    """
    half = len(codes) // 2

    def share(k, m):
        neighbours = KNeighborsRegressor(_NEIGHBOURS).fit(others[:half, m], codes[:half, k])
        return r2_score(codes[half:, k], neighbours.predict(others[half:, m]), multioutput="variance_weighted")

    return np.array([[share(k, m) for m in range(others.shape[1])] for k in range(codes.shape[1])])


def agreement(codes, others, edges, other_edges) -> dict:
    """How much the nodes of one model tell of another's, and how many edges they share, after the best renaming.

    Edges are compared by F1; by chance is its mean over all renamings.
    """
    num = codes.shape[1]
    shares = (told(others, codes) + told(codes, others).T) / 2  # [the other's node, this one's]
    renamings = list(itertools.permutations(range(num)))  # [i]: the other's node that node i + 1 stands for
    best = max(renamings, key=lambda nodes: shares[nodes, range(num)].sum())

    def f1(nodes):
        renamed = {(nodes[parent - 1] + 1, nodes[child - 1] + 1) for parent, child in edges}
        both = len(edges) + len(other_edges)
        return 2 * len(renamed & {tuple(edge) for edge in other_edges}) / both if both else float("nan")

    return {
        "renaming": [node + 1 for node in best],
        "told": price.rounded(shares[best, range(num)]),
        "f1": price.rounded([f1(best), np.mean([f1(nodes) for nodes in renamings])]),
    }


def compare(of_seeds: dict, held_out: np.ndarray, models: pathlib.Path, dataset: str) -> dict:
    """The agreement of each two seeds."""
    codes = {seed: load(models, dataset, seed).encode(held_out).numpy().astype("float64") for seed in of_seeds}
    return {
        f"{one}, {two}": agreement(codes[one], codes[two], of_seeds[one]["edges"], of_seeds[two]["edges"])
        for one, two in itertools.combinations(of_seeds, 2)
    }


def table(results: dict) -> str:
    heads = ["data", "seed", "dense", "additive - dense", "pixels cost - dense", "KL of nodes", "edges", "lead"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in results.items():
        for seed, of_seed in found["seeds"].items():
            cells = [name, seed, "{:.2f} +- {:.2f}".format(*of_seed["elbo"]["dense"])]
            cells += [
                "{:+.2f} +- {:.2f}".format(*of_seed["more than dense"][kind]) for kind in ("additive", "pixels cost")
            ]
            cells.append(" ".join(f"{nats:.1f}" for nats in of_seed["kl"]))
            cells += [" ".join(f"{parent}-{child}" for parent, child in of_seed["edges"])]
            lines.append(f"| {' | '.join([*cells, '{:.3f} +- {:.3f}'.format(*of_seed['lead'])])} |")
    lines += ["", "| data | seeds | renaming | share told | F1 of edges | by chance |", "|---" * 6 + "|"]
    for name, found in results.items():
        for seeds, of_pair in found.get("agreement", {}).items():
            shares = " ".join(f"{share:.2f}" for share in of_pair["told"])
            cells = [
                name,
                seeds,
                " ".join(map(str, of_pair["renaming"])),
                shares,
                *(f"{f1:.2f}" for f1 in of_pair["f1"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(held_out: np.ndarray, seeds, models: pathlib.Path, dataset: str) -> matplotlib.figure.Figure:
    """What each node adds to the logits of some digits, less what it adds on average: red for ink, blue for paper.

    There is a block for each seed. Nodes have the numbers of their own model: z1 of two seeds need not be the same.
    """
    x = held_out[:_SHOWN]
    blocks = []
    for seed in seeds:
        model = load(models, dataset, seed)
        logits = model.decoder.pictures(model.encode(held_out).numpy().reshape(len(held_out), -1)).numpy()
        blocks.append((logits - logits.mean(axis=1, keepdims=True))[:, :_SHOWN].reshape(-1, *x.shape))
    num_nodes = len(blocks[0])
    figure = matplotlib.figure.Figure(figsize=(0.62 * (_SHOWN + 0.5) * len(blocks), 0.68 * (num_nodes + 1)), dpi=120)
    grids = figure.subplots(num_nodes + 1, _SHOWN * len(blocks), squeeze=False)
    for i, (seed, block) in enumerate(zip(seeds, blocks, strict=True)):
        columns = grids[:, i * _SHOWN : (i + 1) * _SHOWN]
        columns[0, 0].set_title(f"seed {seed}", fontsize=8, loc="left")
        for k in range(_SHOWN):
            columns[0, k].imshow(x[k], cmap="gray_r")
            for n in range(num_nodes):
                columns[n + 1, k].imshow(block[n, k], cmap="RdBu_r", vmin=-6, vmax=6)
    for row, axes in enumerate(grids):
        if row:
            axes[0].set_ylabel(f"z{row}", rotation=0, labelpad=10, va="center", fontsize=8)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.04, right=0.995, top=0.95, bottom=0.01, wspace=0.05, hspace=0.05)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist", choices=_EPOCHS)
    parser.add_argument("--data_dir", help="where TFDS keeps its mnist")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--models", type=pathlib.Path, default=pathlib.Path("runs") / "parts")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", type=pathlib.Path)
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    args.models.mkdir(parents=True, exist_ok=True)
    if not (args.table or args.picture):
        for seed in map(str, range(first, last + 1)):
            results = read(args.results)
            found = results.setdefault(args.dataset, {"seeds": {}})
            if seed not in found["seeds"]:
                found["seeds"][seed] = measure(args.dataset, args.data_dir, int(seed), args.models)
                write_atomically(args.results, json.dumps(results))
        results = read(args.results)
        held_out, found = images(args.dataset, args.data_dir)[1], results[args.dataset]
        there = {
            seed: of_seed
            for seed, of_seed in found["seeds"].items()
            if model_file(args.models, args.dataset, seed).exists()
        }
        found["agreement"] = found.get("agreement", {}) | compare(there, held_out, args.models, args.dataset)
        write_atomically(args.results, json.dumps(results))
    results = read(args.results)
    print(table(results))
    if args.picture:
        held_out = images(args.dataset, args.data_dir)[1]
        picture(held_out, list(results[args.dataset]["seeds"]), args.models, args.dataset).savefig(args.picture)


def read(file: pathlib.Path) -> dict:
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    main()
