"""python -m benchmarks.likelihood --runs=FOLDER [--data_dir=FOLDER] [--rows=PATTERN]: the likelihood tables.

Trains and evaluates each row with the shipped commands and configs/mnist_*.cfg. A row that was stopped goes on from its
checkpoint, and one that is in the results is skipped, so the same command may be given again at any time. Rows are
called DATA/METHOD/SEED; PATTERN is as in a shell, threshold/* or */ldiaf/0. METHOD may say how it comes to its graph:
learned at another price, or given. The seed of "random edges" also draws them, as many as the priced row of seed 0
learned. Numbers on different binarisations never share a table.
"""

import argparse
import collections
import fnmatch
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np

from tf_ldiaf.results.files import write_atomically
from tf_ldiaf.results.run_folder import RunFolder

REPO = pathlib.Path(__file__).parents[1]
RESULTS = REPO / "benchmarks" / "results" / "likelihood.json"
METHODS = ("vae", "vae_iaf", "fc_vae", "graph_vae", "ldiaf")
DATA = {
    "threshold": [],
    "threshold, all 60,000 images": ["--validation_fraction=0"],
    "static": ["--dataset=binarized_mnist", "--binarization=none"],
    "dynamic": ["--binarization=dynamic"],
}
_PRICED = "ldiaf, price 0.7"
# Of each row: S of the log-likelihoods.
ROWS = {f"threshold/{method}/0": [100] for method in METHODS}
ROWS |= {f"threshold/{method}/{seed}": [100] for method in ("graph_vae", "ldiaf") for seed in (1, 2)}
ROWS |= {f"threshold/{_PRICED}/{seed}": [100] for seed in range(3)}
ROWS |= {f"threshold/ldiaf, all edges/{seed}": [100] for seed in (1, 2)}  # with seed 0 all are learned
ROWS |= {"threshold/ldiaf, no edges/0": [100]}
ROWS |= {f"threshold/ldiaf, random edges/{seed}": [100] for seed in range(3)}
ROWS |= {"threshold, all 60,000 images/graph_vae/0": [100], "threshold, all 60,000 images/ldiaf/0": [100, 1000]}
ROWS |= {f"static/{method}/0": [100, 1000] for method in METHODS}
ROWS |= {"dynamic/ldiaf/0": [100, 1000]}


def command(name, *arguments):
    done = subprocess.run([sys.executable, "-m", f"tf_ldiaf.{name}", *arguments], cwd=REPO)
    if done.returncode:
        sys.exit(done.returncode)


def graph_flag(graph, seed, learned):
    """The flag for `price P`, `all edges`, `no edges` or `random edges`, of which there are as many as in `learned`."""
    if graph.startswith("price"):
        return f"--edge_cost={graph.split()[1]}"
    edges = {"all edges": "all", "no edges": "none"}.get(graph)
    if edges is None:
        possible = list(itertools.combinations(range(1, len(learned) + 1), 2))
        drawn = np.random.default_rng(int(seed)).choice(possible, round(np.sum(learned)), replace=False)
        edges = ",".join(f"{parent}-{child}" for child, parent in drawn) or "none"
    return f"--edges={edges}"


def row(name, folder, data_dir, num_samples, results):
    """Trains, or goes on training, then evaluates: what is known of the run."""
    data, method, seed = name.split("/")
    method, _, graph = method.partition(", ")
    learned = f"{data}/{_PRICED}/0"
    if graph.startswith("random") and learned not in results:
        sys.exit(f"--rows must have {learned} before {name}, which takes its number of edges. Received: {name} alone.")
    if folder.last.is_file():
        command("train", f"--run_dir={folder.path}", f"--data_dir={data_dir}", "--resume")
    else:
        flags = [f"--flagfile=configs/mnist_{method}.cfg", f"--seed={seed}", f"--data_dir={data_dir}", *DATA[data]]
        if graph:
            flags.append(graph_flag(graph, seed, results.get(learned, {}).get("adjacency")))
        command("train", f"--run_dir={folder.path}", "--overwrite", *flags)
    evaluations = {}
    for num in num_samples:
        command(
            *("evaluate", f"--run_dir={folder.path}", f"--data_dir={data_dir}"),
            *(f"--num_importance_samples={num}", "--batch_size=500"),
        )
        evaluations[str(num)] = folder.read_metrics()  # as JSON has it
    config, history = folder.read_config(), folder.read_history()
    found = {
        "flags": [flag for flag in config.to_flags() if not flag.startswith("--data_dir")],
        "epochs": [sum(epoch["phase"] == phase for epoch in history) for phase in ("structure", "final")],
        "best_validation_elbo": max(epoch["val_elbo"] for epoch in history if epoch["phase"] == "final"),
        "images_per_second": max(epoch["images_per_second"] for epoch in history),
        "evaluations": evaluations,
    }
    if config.num_nodes > 1:
        gates = folder.read_gates()
        found |= {"gate_probs": gates["epochs"][-1]["probs"] if gates["epochs"] else None}
        found |= {"adjacency": gates["adjacency"]}
    return found


def table(data, results):
    """The rows of one binarisation in Markdown."""
    most = max(num for name, nums in ROWS.items() if name.startswith(f"{data}/") for num in nums)
    sizes = sorted({100, most})
    lines = [
        f"| {data}: method, seed | parameters | epochs | ELBO | {' | '.join(f'LL, S = {num}' for num in sizes)} "
        "| KL of z1 .. zN | active units | edges |",
        "|" + "---|" * (7 + len(sizes)),
    ]
    for name, found in results.items():
        of, method, seed = name.split("/")
        if of != data:
            continue
        evaluations = found["evaluations"]
        first = evaluations["100"]
        bounds = [number(first, "elbo")]
        bounds += [number(evaluations[str(num)], "log_likelihood") if str(num) in evaluations else "-" for num in sizes]
        kl = ", ".join(f"{value:z.1f}" for value in first["test_kl_per_node"])
        edges = round(np.sum(found["adjacency"])) if "adjacency" in found else "-"
        cells = [f"`{method}`, {seed}", f"{first['num_parameters']:,}", " + ".join(map(str, found["epochs"])), *bounds]
        cells += [kl, f"{first['active_units']} of {first['latent_dimensions']}", str(edges)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def over_seeds(data, results):
    """Of the methods of one binarisation with several seeds: means, their spread, and how far the graphs agree.

    Empty if no method has several.
    """
    seeds = collections.defaultdict(list)
    for name, found in results.items():
        of, method, _ = name.split("/")
        if of == data:
            seeds[method].append(found)
    seeds = {method: runs for method, runs in seeds.items() if len(runs) > 1}
    if not seeds:
        return ""
    lines = [
        f"| {data}: method | seeds | ELBO | LL, S = 100 | edges | in all seeds | in any |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, runs in seeds.items():
        bounds = []
        for name in ("test_elbo", "test_log_likelihood"):
            values = [run["evaluations"]["100"][name] for run in runs]
            bounds.append(f"{np.mean(values):.2f}, sd {np.std(values, ddof=1):.2f}")
        edges = ["-"] * 3
        if "adjacency" in runs[0]:
            graphs = np.array([run["adjacency"] for run in runs])
            edges = [", ".join(str(round(graph.sum())) for graph in graphs)]
            edges += [str(round(agreed.sum())) for agreed in (graphs.min(axis=0), graphs.max(axis=0))]
        lines.append(f"| `{method}` | {len(runs)} | {' | '.join([*bounds, *edges])} |")
    for better, base in (("ldiaf", "graph_vae"), (_PRICED, "ldiaf, random edges")):
        if better in seeds and base in seeds:
            lines += ["", f"`{better}` less `{base}`: {difference(seeds[better], seeds[base])}."]
    return "\n".join(lines)


def difference(runs, others):
    """Of the means over seeds, with the standard error that the spread between seeds gives it (Welch)."""
    parts = []
    for name, label in (("test_elbo", "ELBO"), ("test_log_likelihood", "LL")):
        samples = [[run["evaluations"]["100"][name] for run in group] for group in (runs, others)]
        stderr = np.sqrt(sum(np.var(values, ddof=1) / len(values) for values in samples))
        parts.append(f"{label} {np.mean(samples[0]) - np.mean(samples[1]):+.2f} +- {stderr:.2f}")
    return ", ".join(parts)


def number(metrics, name):
    return f"{metrics[f'test_{name}']:.2f} +- {metrics[f'test_{name}_stderr']:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, help="Where the run folders are kept.")
    parser.add_argument("--data_dir", default="", help="Where TFDS keeps mnist and binarized_mnist.")
    parser.add_argument("--rows", default="*", help="Which rows (default: all).")
    parser.add_argument("--results", default=str(RESULTS), help="The JSON file of the results.")
    arguments = parser.parse_args()
    names = fnmatch.filter(ROWS, arguments.rows)
    if not names:
        sys.exit(f"--rows must match one of {', '.join(ROWS)}. Received: {arguments.rows}.")
    file = pathlib.Path(arguments.results)
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        if name not in results:
            folder = RunFolder(
                pathlib.Path(arguments.runs) / name.replace("/", "-").replace(", ", "-").replace(" ", "-")
            )
            results[name] = row(name, folder, arguments.data_dir, ROWS[name], results)
            write_atomically(file, json.dumps(results, indent=1))
    for data in DATA:
        if any(name.startswith(f"{data}/") for name in results):
            print(table(data, results), over_seeds(data, results), sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
