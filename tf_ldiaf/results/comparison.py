"""Several runs side by side: a table, and their curves in one picture."""

import pathlib
from collections.abc import Sequence

from tf_ldiaf import paths
from tf_ldiaf.errors import ConfigError, FileError
from tf_ldiaf.results import pictures
from tf_ldiaf.results.report import clock
from tf_ldiaf.results.run_folder import RunFolder, best_row

# Setting -> what tells whether two runs read their images alike.
_READING = {
    "image_size": "image_size",
    "color": "keeps_colour",
    "value_range": "value_range",
    "arrays": "arrays",
    "stream": "stream",
}


def table(folders: Sequence[RunFolder]) -> str:
    """Settings in which runs differ, and what came out of each, as a Markdown table; a run is a column.

    Raises:
        ConfigError: the runs are of other images or another binarisation, so that their numbers do not compare; or one
            is given twice.
        FileError: one is not a run, or has no epoch yet.
    """
    _check_comparable(folders)
    settings = [folder.read_config().to_json() for folder in folders]
    rows = [("", names(folders))]
    for name in dict.fromkeys(name for setting in settings for name in setting):
        values = [_shown(setting.get(name, "-")) for setting in settings]  # a method may have no use for it
        if len(set(values)) > 1:
            rows.append((name, values))
    columns = [_results(folder) for folder in folders]
    rows += [(name, [column[name] for column in columns]) for name in columns[0]]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[1][i]) for row in rows) for i in range(len(folders)))]
    head, *lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip((name, *values), widths, strict=True))} |"
        for name, values in rows
    ]
    lines = [head, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines]
    checksums = [folder.read_info().get("valid_checksum") for folder in folders]  # earlier versions have none
    alike = [(setting.get("seed"), setting.get("validation_fraction")) for setting in settings]
    if len(set(checksums)) > 1 or (None in checksums and len(set(alike)) > 1):
        lines += ["", "These runs may have other validation images, so that their validation ELBOs do not compare."]
    return "\n".join(lines)


def histories(folders: Sequence[RunFolder]) -> dict[str, list[dict]]:
    """The history of each run by its name; errors as of `table`."""
    _check_comparable(folders)
    return dict(zip(names(folders), map(_history, folders), strict=True))


def names(folders: Sequence[RunFolder]) -> list[str]:
    """What the runs are called: the ends of their paths, as long as it takes to tell them apart."""
    parts = [folder.path.resolve().parts for folder in folders]
    length = 1
    while len({part[-length:] for part in parts}) < len({*parts}):
        length += 1
    return [str(pathlib.Path(*part[-length:])) for part in parts]


def _check_comparable(folders):
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"Runs must be different. Received: {' '.join(str(folder.path) for folder in folders)}.")
    configs = [folder.read_config() for folder in folders]
    checksums = {folder.read_info().get("test_checksum") for folder in folders}
    tests = checksums - {None}
    # The same files may have been called by other names; earlier versions kept nothing else.
    are_same = None not in checksums and len(tests) == 1
    name_of_all = configs[0].dataset_name
    data = [(name_of_all if are_same else config.dataset_name, config.kind_of_pixels) for config in configs]
    readings = {tuple(getattr(config, name) for name in _READING.values()) for config in configs}
    if len(set(data)) > 1 or len(tests) > 1 or len(readings) > 1:
        found = " and ".join(sorted({f"{name} ({kind})" for name, kind in data}))
        if len(set(data)) == 1:
            differ = [
                name for name, values in zip(_READING, zip(*readings, strict=True), strict=True) if len(set(values)) > 1
            ]
            found += f" with another {' and '.join(differ)}" if differ else " with other test images"
        raise ConfigError(f"Runs must be of the same images and binarisation to be compared. Received: {found}.")


def _history(folder):
    rows = folder.read_history()
    if best_row(rows, "final") is None:
        raise FileError(
            f"{folder.path} must hold a run whose final phase has begun. Received: one without an epoch of it."
        )
    return rows


def _results(folder):
    """What came out of a run, by what it is called."""
    rows, config = _history(folder), folder.read_config()
    best = best_row(rows, "final")
    with paths.as_written(folder.history_file):
        kl = [best[f"val_kl_node_{n + 1}"] for n in range(config.num_nodes)]
        in_all = best["val_kl"]
    with paths.as_written(folder.gates_file):
        gates = folder.read_gates()
        probs = gates["epochs"][-1]["probs"] if gates["epochs"] else None
        graph = pictures.learned_graph(gates["adjacency"], gates.get("edges", []), probs, kl)
    finished = "" if folder.report_file.is_file() else " (not finished)"
    results = {
        "best validation ELBO, nats": f"{best['val_elbo']:.2f}",
        "in epoch": f"{best['epoch']:.0f}",
        "epochs trained": f"{rows[-1]['epoch']:.0f} of {config.epochs}{finished}",
        "KL, nats": f"{in_all:.2f}",
        "edges": " ".join(f"{a}->{b}" for a, b in graph.edges) or "none",
        "live nodes": f"{len(graph) - len(pictures.dead_nodes(graph))} of {len(graph)}",
        "time of all epochs": clock(sum(row["seconds"] for row in rows)) if "seconds" in best else "unknown",
    }
    metrics = folder.read_metrics() if folder.is_evaluated() else {}
    with paths.as_written(folder.metrics_file):
        for name, key in (("test ELBO, nats", "elbo"), ("test log-likelihood, nats", "log_likelihood")):
            error = metrics.get(f"test_{key}_stderr")
            value = f"{metrics[f'test_{key}']:.2f}" if metrics else "not evaluated"
            value += "" if error is None else f" +- {error:.2f}"
            results[name] = value + (f" (S = {metrics['num_importance_samples']})" if metrics and "log" in key else "")
        bits = f"{metrics['test_bits_per_dim']:.4f}" if metrics else "not evaluated"
        results["the same, bits per dimension"] = bits
    return results


def _shown(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
