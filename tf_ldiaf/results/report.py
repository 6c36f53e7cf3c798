"""What is said of a run in words: its report, its numbers as a table, and the model card of its SavedModel."""

import dataclasses
from collections.abc import Sequence

import networkx as nx

from tf_ldiaf.config import Config
from tf_ldiaf.errors import FileError
from tf_ldiaf.paths import shown
from tf_ldiaf.probability.bounds import bits_per_dim
from tf_ldiaf.results import pictures
from tf_ldiaf.results.run_folder import RunFolder, best_row
from tf_ldiaf.structure.elimination import Measured

# Effective samples of a log-likelihood to be quoted. The shipped model has 6.3 of 100; 1000 raise it by half a nat.
_ENOUGH = 10


def edges_text(graph: nx.DiGraph) -> str:
    """The edges of a `pictures.latent_graph`, parent -> child (weight); "" if it has none."""
    return ", ".join(f"{a} -> {b} ({pictures.weight_text(edge)})" for a, b, edge in graph.edges(data=True))


def dead_text(graph: nx.DiGraph) -> str:
    """A sentence on the dead nodes of a `pictures.latent_graph`, if it has some."""
    dead = pictures.dead_nodes(graph)
    return f" Dead nodes, which say nothing of an image: {', '.join(dead)}." if dead else ""


def graph_text(config: Config, graph: nx.DiGraph) -> str:
    """What a run's `pictures.latent_graph` says, in words; "" of a single node."""
    if len(graph) < 2:
        return ""
    num, possible = graph.number_of_edges(), len(graph) * (len(graph) - 1) // 2
    if not config.learns_gates:
        edges = ", ".join(f"{a} -> {b}" for a, b in graph.edges) if num < possible else "all edges"
        return f"Given graph, parent -> child: {edges or 'no edges'}.{dead_text(graph)}"
    if not num:
        return f"Learned graph: none of {possible} possible edges.{dead_text(graph)}"
    is_worth = any("stderr" in edge for _, _, edge in graph.edges(data=True))
    about = ", and what they are worth on validation images" if is_worth else ", and gate probabilities"
    return (
        f"Learned graph, {num} of {possible} possible edges, parent -> child{about}: "
        f"{edges_text(graph)}.{dead_text(graph)}"
    )


def edge_decisions(
    gate_probs: list[list[float]], measured: Sequence[Measured], kept: Sequence[tuple[int, int]]
) -> list[dict]:
    """Of each edge that could be learned: whether it was kept, and why; for gates.json.

    Args:
        gate_probs: [N, N], [child][parent], when learning ended.
        measured: what the edges of the most probable graph were worth; of one edge the last counts.
        kept: pairs (parent, child).
    """
    last, decisions = {one[:2]: one for one in measured}, []
    for child in range(1, len(gate_probs) + 1):
        for parent in range(child + 1, len(gate_probs) + 1):
            edge, prob = (parent, child), gate_probs[child - 1][parent - 1]
            decision = {"parent": parent, "child": child, "kept": edge in kept, "gate_prob": prob}
            if edge in last:
                decision |= {"nats": last[edge].nats, "stderr": last[edge].stderr}
                decision["why"] = "worth its price" if edge in kept else "not worth its price"
            else:
                decision["why"] = "gate open, not measured" if edge in kept else "gate shut"
            decisions.append(decision)
    return decisions


def run_report(config: Config, folder: RunFolder, rows: list[dict], graph: nx.DiGraph, num_dims: int) -> str:
    """report.md: a run on one page.

    Args:
        config: the settings.
        folder: the run.
        rows: of its history.
        graph: its `pictures.latent_graph`.
        num_dims: numbers of an image.
    """
    best = best_row(rows, "final")
    bits = bits_per_dim(best["val_elbo"], num_dims)
    lines = [
        f"# {config.method} on {config.dataset}",
        "",
        f"Settings: `{' '.join(config.to_flags())}`",
        "",
        "| | |",
        "|---|---|",
        f"| best validation ELBO | {best['val_elbo']:.3f} nats, final phase, epoch {best['epoch']:.0f} |",
        f"| the same in bits per dimension | {bits:.4f} |",
        f"| its reconstruction term | {best['val_reconstruction']:.3f} nats |",
        f"| its KL term | {best['val_kl']:.3f} nats |",
        f"| training ELBO in that epoch | {best['elbo']:.3f} nats |",
        f"| active units | {best['val_active_units']:.0f} of {config.num_nodes * config.node_dim} |",
        f"| epochs | {len(rows)} |",
        f"| of them in the final phase | {epochs_text(config, folder)} |",
        "",
    ]
    shown_files = {"graph": folder.graph_file} if len(graph) > 1 else {}
    shown_files |= {"samples": folder.samples_file, "images above their reconstructions": folder.reconstructions_file}
    if config.decoder == "additive":
        shown_files["what each node draws, a row for each, draws of the prior"] = folder.nodes_file
    shown_files["ELBO by epoch"] = folder.curves_file
    lines += [graph_text(config, graph), ""] if len(graph) > 1 else []
    for what, file in shown_files.items():
        lines += [f"{what[0].upper()}{what[1:]}:", "", f"![{what}]({file.name})", ""]
    lines += ["Test numbers and a SavedModel:", ""]
    return "\n".join(
        [
            *lines,
            *(f"    python -m tf_ldiaf.{name} --run_dir={shown(folder.path)}" for name in ("evaluate", "export")),
            "",
        ]
    )


def epochs_text(config: Config, folder: RunFolder) -> str:
    """How many epochs of the final phase a run has trained, and was to train; errors as of `RunFolder`."""
    done = sum(row["phase"] == "final" for row in folder.read_history())
    before = folder.read_info().get("epochs_before", [])
    planned = "" if done == config.epochs else f" of {config.epochs}"
    return f"{done}{planned}" + (f", planned as {', then '.join(map(str, before))} before" if before else "")


def metrics_table(metrics: dict) -> str:
    """What `evaluation.evaluate` returned, for the screen and for model cards, as a Markdown table."""
    num, samples = metrics["num_images"], metrics["num_importance_samples"]

    def with_error(name, digits=2):
        error = metrics.get(f"test_{name}_stderr")  # earlier versions measured none of bits
        return f"{metrics[f'test_{name}']:.{digits}f} +- {'unknown' if error is None else f'{error:.{digits}f}'}"

    kind = metrics["binarization"]
    if metrics.get("likelihood", "bernoulli") != "bernoulli":
        kind = f"256 values, {metrics['likelihood']}"
    effective = metrics.get("test_effective_samples")
    has_both = "test_elbo_bits_per_dim" in metrics

    rows = [
        ("method", metrics["method"]),
        ("data", f"{metrics['dataset']}, {kind}, {num} test images"),
        ("ELBO", f"{with_error('elbo')} nats"),
        *([("ELBO, bits per dimension", with_error("elbo_bits_per_dim", 4))] if has_both else []),
        (f"log-likelihood, S = {samples}", f"{with_error('log_likelihood')} nats"),
        *([("effective sample size", f"{effective:.1f} of {samples}, mean over images")] if effective else []),
        ("the same, bits per dimension", with_error("bits_per_dim", 4)),
        ("reconstruction", f"{with_error('reconstruction')} nats"),
        ("KL", f"{with_error('kl')} nats"),
        *((f"KL of z{n + 1}", f"{kl:.2f} nats") for n, kl in enumerate(metrics["test_kl_per_node"])),
        *(
            (f"worth of z{edge['parent']} -> z{edge['child']}", f"{edge['nats']:.2f} +- {edge['stderr']:.2f} nats")
            for edge in metrics.get("test_edge_worth", [])
        ),
        ("active units", f"{metrics['active_units']} of {metrics['latent_dimensions']}"),
        ("parameters", f"{metrics['num_parameters']:,}"),
        ("seed of the draws", str(metrics["seed"])),
    ]
    left, right = (max(len(row[i]) for row in rows) for i in (0, 1))
    head, *lines = [f"| {name:<{left}} | {value:<{right}} |" for name, value in rows]
    return "\n".join([head, f"|{'-' * (left + 2)}|{'-' * (right + 2)}|", *lines])


def too_few_samples(metrics: dict) -> str:
    """A sentence where S is too small for a log-likelihood that one quotes; else nothing."""
    num, effective = metrics["num_importance_samples"], metrics["test_effective_samples"]
    if num == 1 or effective >= _ENOUGH:
        return ""
    return (
        f"Warning: the log-likelihood has an effective sample size of {effective:.1f} of {num}. Below {_ENOUGH} it is "
        f"too low to be quoted: with --num_importance_samples={10 * num} it would rise."
    )


def model_card(folder: RunFolder, image_shape: tuple[int, ...], name: str, graph: nx.DiGraph) -> str:
    """README.md of a run's SavedModel.

    Args:
        folder: the run.
        image_shape: (H, W) or (H, W, C).
        name: of the SavedModel's folder.
        graph: the latent graph, a `pictures.latent_graph`.

    Raises:
        FileError: metrics.json is not what evaluate wrote.
    """
    config, info = folder.read_config(), folder.read_info()
    numbers = "Not measured: `python -m tf_ldiaf.evaluate` had not been run on these weights when this was exported."
    if folder.is_evaluated():
        try:
            numbers = metrics_table(folder.read_metrics())
        except (TypeError, KeyError, ValueError) as error:
            raise FileError(f"{folder.metrics_file} must be what evaluate wrote. Received: {error!r}.") from None
    settings = " ".join(dataclasses.replace(config, dataset=config.dataset_name, data_dir="").to_flags())
    no_validation = " (the validation images were trained on like the others)" if not config.validation_fraction else ""
    trained = f"Epochs of the final phase: {epochs_text(config, folder)}."
    learned = "learned" if config.learns_gates else "fixed"
    is_worth = any("stderr" in edge for _, _, edge in graph.edges(data=True))
    weights = " (what it is worth in nats)" if is_worth else " (gate probability)" if config.learns_gates else ""
    n = config.num_nodes
    kind, pixels = "binary images", "of 0 and 1"
    data = f"binarisation `{config.binarization}`. Numbers on other binarisations do not compare."
    if not config.is_binary:
        kind, pixels = "images of 256 values", "of k / 255 for k in 0 .. 255, or uint8 in 0-255 outside of signatures"
        data = f"256 values as they are, likelihood `{config.likelihood}`. Numbers on binary images do not compare."
    edges = f"edges from parent to child, {learned}{weights}: {edges_text(graph) or 'none'}.{dead_text(graph)}"
    return f"""# {name}

A variational autoencoder of {" x ".join(map(str, image_shape))} {kind}, made with tf_ldiaf.

![samples](samples.png)

## Data

`{config.dataset_name}`, {data}

## Method

`{config.method}`: N = {config.num_nodes} nodes of D = {config.node_dim}, T = {config.num_flow_steps} flow steps.
Settings: `{settings}`.
{trained}
Versions: {", ".join(f"{package} {version}" for package, version in info["versions"].items())}.

## Numbers

{numbers}

ELBO by epoch{no_validation}:

![curves](curves.png)

## Latent graph

Root z{config.num_nodes}; {edges}

![graph](graph.png)

## Use

Only TensorFlow is needed:

    import tensorflow as tf
    model = tf.saved_model.load("{name}")
    digits = model.signatures["sample"](num=tf.constant(16), seed=tf.constant(0))["probs"]

Signatures: `sample(num, seed)`, `encode(images)`, `reconstruct(images, seed)`,
`log_likelihood(images, num_importance_samples, seed)` in nats; images are float32
[n, {", ".join(map(str, image_shape))}] {pixels}.
`probs` are means of the pixels and `images` are draws, both in 0-1 like the images that go in.
`decode(latents)` gives the `probs` of latents, float32 [n, {n}, {config.node_dim}].
`resample(latents, keep, adjacency, seed)` keeps the nodes where `keep` is true, and draws the others
anew, each given its parents. An edge is shut where `adjacency[child, parent]` is false:

    latents = tf.zeros([1, {n}, {config.node_dim}])
    keep = tf.constant({[node == 0 for node in range(n)]})
    adjacency = tf.ones([{n}, {n}], tf.bool)
    model.signatures["resample"](latents=latents, keep=keep, adjacency=adjacency, seed=tf.constant(0))
"""


def clock(seconds: float) -> str:
    """A duration as minutes:seconds, or as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
