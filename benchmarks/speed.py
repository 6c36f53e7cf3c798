"""python -m benchmarks.speed: tf_ldiaf and its peers side by side on one machine, and how its costs grow.

Needs nothing else running on the machine. `make speed` sets the peers' environments up and runs it. Every contender is
a process of its own that waits while another works; they take turns, and each turn is set against the rate of a large
float32 matrix product measured right before and after it, because the speed of a shared machine drifts.

--before=FOLDER sets this checkout beside another one, such as a `git worktree` of an earlier commit, and nothing else.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import oracle, peers

CONTENDERS = {
    "tf_ldiaf": ("tf", "peer_tf_ldiaf", "launch"),
    "tf_ldiaf, one step a launch": ("tf", "peer_tf_ldiaf", "step"),
    "PyTorch eager": ("torch", "peer_torch", "eager"),
    "PyTorch compile": ("torch", "peer_torch", "compile"),
    "PyTorch as the reference": ("torch", "peer_torch", "reference"),
    "JAX jit": ("jax", "peer_jax", "jit"),
    "JAX scan of 25 steps": ("jax", "peer_jax", "scan"),
}
REPO = pathlib.Path(__file__).parents[1]
STEPS, ROUNDS, NUM_SAMPLES = 50, 7, 100


class Worker:
    """A contender's process."""

    def __init__(self, python, module, variant, checkout=REPO):
        line = [python, "-m", f"benchmarks.{module}", variant]
        self.process = subprocess.Popen(
            line, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def matrix_product_rate(size=1536):
    """FLOP/s of a float32 matrix product."""
    a = np.ones((size, size), "float32")
    started = time.perf_counter()
    for _ in range(3):
        a @ a
    rate = 3 * 2 * size**3 / (time.perf_counter() - started)
    time.sleep(0.1)  # NumPy's threads spin for a while after their work, and would slow the next contender
    return rate


def turns(workers, request, flops, rounds):
    """Medians of each worker's answer to `request`, in turn: seconds, and `flops` / seconds over the product's rate."""
    seconds, fractions = {name: [] for name in workers}, {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            before = matrix_product_rate()
            took = worker.ask(**request)["seconds"]
            rate = (before + matrix_product_rate()) / 2
            seconds[name].append(took)
            fractions[name].append(flops / took / rate)
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "fraction": statistics.median(fractions[name]),
            "all_seconds": seconds[name],
        }
        for name in workers
    }


def side_by_side(pythons, folder):
    """Training, likelihood and first step of every contender."""
    found = compared(pythons, folder, CONTENDERS, peers.SIZES, (128, 64), STEPS, NUM_SAMPLES)
    for name, (env, module, variant) in CONTENDERS.items():
        runs = [first_step(pythons[env], module, variant, folder / "data.npy", folder / f"cache{i}") for i in range(2)]
        found[name]["first_step"] = min(runs, key=lambda run: run["first_step"])
    return found


def convolutions(pythons, folder):
    """Training with residual convolutions, beside PyTorch's."""
    names = ("tf_ldiaf", "PyTorch eager", "PyTorch compile")
    contenders = {name: CONTENDERS[name] for name in names}
    return compared(pythons, folder, contenders, peers.CONVOLUTIONS, (128,), STEPS // 2, num_samples=0)


def compared(pythons, folder, contenders, sizes, batch_sizes, steps, num_samples):
    """Training, and the likelihood unless `num_samples` is 0, of contenders that agree with the oracle on the ELBO."""
    rng = np.random.default_rng(0)
    files = {name: str(folder / f"{name}.npy") for name in ("data", "x", "eps", "out")}
    weights = oracle.perturbed(peers.init(sizes, 0), 1)
    x, eps = rng.integers(0, 2, (128, 784)).astype("uint8"), rng.normal(size=(5, 128, 16))
    np.save(files["data"], rng.integers(0, 2, (48_000, 784)).astype("uint8"))
    np.save(files["x"], x)
    np.save(files["eps"], eps)
    np.savez(folder / "perturbed.npz", **weights)
    expected, _ = oracle.elbo(sizes, weights, x, eps)
    found = {name: {} for name in contenders}
    for batch_size in batch_sizes:
        workers = {name: Worker(pythons[env], module, variant) for name, (env, module, variant) in contenders.items()}
        setup = {"do": "setup", "sizes": sizes, "batch_size": batch_size, "data": files["data"]}
        for name, worker in workers.items():
            if batch_size == 128:
                worker.ask(**setup, weights=str(folder / "perturbed.npz"))
                worker.ask(do="elbo", x=files["x"], eps=files["eps"], out=files["out"])
                error = float(np.abs(np.load(files["out"]) / expected - 1).max())
                if error > 1e-4:
                    sys.exit(f"{name} must agree with the oracle on the ELBO. Received: a relative error of {error:g}.")
                found[name]["elbo_relative_error"] = error
            worker.ask(**setup, weights=None)
            worker.ask(do="train", steps=steps)
        flops = peers.training_flops(sizes) * batch_size * steps
        for name, values in turns(workers, {"do": "train", "steps": steps}, flops, ROUNDS).items():
            values["images_per_second"] = batch_size * steps / values["seconds"]
            found[name][f"training_{batch_size}"] = values
        if batch_size == 128:
            for name, worker in workers.items():
                found[name]["peak_mib_training"] = worker.ask(do="memory")["peak_mib"]
        if batch_size == 128 and num_samples:
            request = {"do": "log_likelihood", "x": files["x"], "num_samples": num_samples}
            for worker in workers.values():
                worker.ask(**request)
            flops = peers.likelihood_flops(sizes, num_samples) * len(x)
            for name, values in turns(workers, request, flops, 5).items():
                values["images_per_second"] = len(x) / values["seconds"]
                found[name]["log_likelihood"] = values
        for worker in workers.values():
            worker.close()
    return found


def before_and_after(pythons, folder, before):
    """Seconds of training and likelihood of another checkout and of this one, in turns, and after / before."""
    file, images = str(folder / "data.npy"), str(folder / "x.npy")
    np.save(file, np.random.default_rng(0).integers(0, 2, (48_000, 784)).astype("uint8"))
    np.save(images, np.load(file)[:128])
    found = {}
    for batch_size in (128, 64):
        checkouts = {"before": before, "after": REPO}
        workers = {name: Worker(pythons["tf"], "peer_tf_ldiaf", "launch", path) for name, path in checkouts.items()}
        training = {"do": "train", "steps": 2 * STEPS}
        for worker in workers.values():
            worker.ask(do="setup", sizes=peers.SIZES, weights=None, batch_size=batch_size, data=file)
            worker.ask(**training)
        flops = peers.training_flops(peers.SIZES) * batch_size * 2 * STEPS
        found[f"training_{batch_size}"] = turns(workers, training, flops, 2 * ROUNDS + 1)
        if batch_size == 128:
            request = {"do": "log_likelihood", "x": images, "num_samples": NUM_SAMPLES}
            for worker in workers.values():
                worker.ask(**request)
            flops = peers.likelihood_flops(peers.SIZES, NUM_SAMPLES) * batch_size
            found["log_likelihood"] = turns(workers, request, flops, 2 * ROUNDS + 1)
        for worker in workers.values():
            worker.close()
    for values in found.values():
        values["ratio"] = values["after"]["seconds"] / values["before"]["seconds"]
        values["ratio_of_fastest"] = min(values["after"]["all_seconds"]) / min(values["before"]["all_seconds"])
    return found


def first_step(python, module, variant, data, cache):
    """Seconds from the start of the process to the end of each stage, up to two steps; compilers' caches are empty."""
    env = os.environ | {"START_TIME": str(time.time()), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    line = [python, "-m", f"benchmarks.{module}", variant, "--first_step", "128", data]
    return json.loads(subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True, check=True).stdout)


def growth(pythons, folder):
    """Step time, time of the first launch and memory of tf_ldiaf as one size changes, each in a fresh process."""
    file = str(folder / "growth.npy")
    np.save(file, np.random.default_rng(0).integers(0, 2, (48_000, 784)).astype("uint8"))
    images = str(folder / "images.npy")
    np.save(images, np.load(file)[:128])
    rows = []
    cases = [("num_nodes", n) for n in (1, 2, 5, 10, 20, 40)] + [("num_flow_steps", t) for t in (0, 1, 2, 4, 8)]
    cases += [("batch_size", b) for b in (32, 64, 128, 256, 512, 1024)] + [
        ("num_samples", s) for s in (1, 10, 100, 1000, 5000)
    ]
    for what, value in cases:
        worker = Worker(pythons["tf"], "peer_tf_ldiaf", "launch")
        sizes = peers.SIZES | ({what: value} if what in peers.SIZES else {})
        batch_size = value if what == "batch_size" else 128
        worker.ask(do="setup", sizes=sizes, weights=None, batch_size=batch_size, data=file)
        request, per_image, work = {"do": "train", "steps": 25}, peers.training_flops(sizes), 25 * batch_size
        if what == "num_samples":
            request = {"do": "log_likelihood", "x": images, "num_samples": value}
            per_image, work = peers.likelihood_flops(sizes, value), 128
        first = worker.ask(**request)["seconds"]
        timed = turns({"": worker}, request, per_image * work, 5)[""]
        row = {
            "size": what,
            "value": value,
            "mflop_per_image": per_image / 1e6,
            "images_per_second": work / timed["seconds"],
            "milliseconds_per_step": 1e3 * timed["seconds"] / (1 if what == "num_samples" else 25),
            "fraction": timed["fraction"],
            "first_launch_seconds": first,
            "peak_mib": worker.ask(do="memory")["peak_mib"],
        }
        worker.close()
        rows.append(row)
        print(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    return rows


def command(pythons, folder, data_dir):
    """What a user waits for: help, the first step of the shipped command, loading a SavedModel, samples from it."""

    def seconds(*line):
        started = time.perf_counter()
        subprocess.run([pythons["tf"], *line], cwd=REPO, check=True, capture_output=True)
        return time.perf_counter() - started

    def stages(i, programs="programs"):
        line = [pythons["tf"], "-m", "benchmarks.first_step", "--dataset=mnist", f"--data_dir={data_dir}"]
        line += [f"--run_dir={folder / f'run{i}'}"]
        env = os.environ | {"START_TIME": str(time.time()), "XDG_CACHE_HOME": str(folder / programs)}
        done = subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    stages("_before", "other_programs")  # the disk is warm from here on

    script = """
import json, time, tensorflow as tf
started = time.perf_counter()
sample = tf.saved_model.load("saved_models/mnist_ldiaf").signatures["sample"]
loaded = time.perf_counter()
draw = lambda seed: sample(num=tf.constant(1000), seed=tf.constant(seed))["images"].numpy()
draw(0)
warm = time.perf_counter()
for seed in range(10): draw(seed)
print(json.dumps({"load_seconds": loaded - started, "samples_per_second": 10_000 / (time.perf_counter() - warm)}))
"""
    done = subprocess.run([pythons["tf"], "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    return {
        "help_seconds": statistics.median(seconds("-m", "tf_ldiaf.train", "--help") for _ in range(5)),
        "first_step_without_kept_programs": stages(0),
        "first_step_of_a_later_run": min((stages(i) for i in (1, 2, 3)), key=lambda stage: stage["first_step"]),
        "saved_model": json.loads(done.stdout),
    }


def inputs(pythons):
    """Milliseconds a step of the input pipeline alone, batch 128, by binarisation; it runs beside the training."""
    script = """
import json, time
import numpy as np
from tf_ldiaf import data
grey = np.random.default_rng(0).integers(0, 256, (48_000, 28, 28)).astype("uint8")
found = {}
for binarization, images in (("threshold", grey // 128), ("dynamic", grey)):
    launches = iter(data.training_launches(images, batch_size=128, seed=0, steps_per_launch=25))
    next(launches)
    started = time.perf_counter()
    for _ in range(40):
        next(launches)
    found[binarization] = (time.perf_counter() - started) / (40 * 25) * 1e3
print(json.dumps(found))
"""
    done = subprocess.run([pythons["tf"], "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def memory(pythons, folder, num_epochs=60):
    """Resident MiB and open files of the shipped training command at the end of epochs, digits, all phases in one."""
    script = f"""
import json, os, sys
from tf_ldiaf import cli, train
from tf_ldiaf.training.recorder import Recorder
on_epoch_end, found = Recorder.on_epoch_end, []
def observed(self, epoch, logs=None):
    on_epoch_end(self, epoch, logs)
    pages = int(open("/proc/self/statm").read().split()[1])
    found.append([pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))])
Recorder.on_epoch_end = observed
flags = ["--flagfile=configs/digits_ldiaf.cfg", "--epochs={num_epochs}", "--early_stopping_patience=1000"]
sys.argv = ["train", *flags, "--run_dir={folder / "memory"}"]
cli.run(train.main, "", train.FLAGS)
print(json.dumps(found))
"""
    done = subprocess.run([pythons["tf"], "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    epochs = json.loads(done.stdout.splitlines()[-1])[-num_epochs:]
    return {
        f"epoch {epoch}": dict(zip(("resident_mib", "open_files"), epochs[epoch - 1], strict=True))
        for epoch in (5, 10, 20, 30, 40, 50, num_epochs)
    }


def table(found):
    """The side-by-side numbers in Markdown."""
    timed = {
        "training_128": "images/s, batch 128",
        "training_64": "images/s, batch 64",
        "log_likelihood": f"log-likelihood (S = {NUM_SAMPLES}), images/s",
    }
    timed = {part: title for part, title in timed.items() if part in found["tf_ldiaf"]}
    has_first_step = "first_step" in found["tf_ldiaf"]
    titles = ["", *(cell for title in timed.values() for cell in (title, "of limit"))]
    titles += ["tracing, s", "first step, s"] * has_first_step + ["peak MiB"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, values in found.items():
        cells = [name]
        for part in timed:
            cells += [f"{values[part]['images_per_second']:,.0f}", f"{values[part]['fraction']:.0%}"]
        if has_first_step:
            first = values["first_step"]
            cells += [f"{first['tracing'] - first['build']:.1f}" if "tracing" in first else "-"]
            cells += [f"{first['first_step']:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {values['peak_mib_training']:,.0f} |")
    return "\n".join(lines)


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "")
    return {"processor": model or platform.processor(), "cores": len(os.sched_getaffinity(0))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="", help="Python of an environment with torch and numpy.")
    parser.add_argument("--jax", default="", help="Python of an environment with jax, optax and numpy.")
    parser.add_argument("--before", default="", help="Another checkout.")
    parser.add_argument("--data_dir", default="", help="Where TFDS keeps its mnist.")
    default = "side_by_side,convolutions,command,inputs,memory,growth"
    parser.add_argument("--parts", default=default, help="Which parts, separated by commas.")
    parser.add_argument("--out", default=str(REPO / "benchmarks" / "results" / "speed.json"))
    arguments = parser.parse_args()
    if not arguments.before and not (arguments.torch and arguments.jax):
        parser.error("--torch and --jax are needed, or --before.")
    pythons = {"tf": sys.executable, "torch": arguments.torch, "jax": arguments.jax}
    out = pathlib.Path(arguments.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        parts = {
            "side_by_side": lambda: side_by_side(pythons, folder),
            "convolutions": lambda: convolutions(pythons, folder),
            "command": lambda: command(pythons, folder, arguments.data_dir),
            "inputs": lambda: inputs(pythons),
            "memory": lambda: memory(pythons, folder),
            "growth": lambda: growth(pythons, folder),
            "before_and_after": lambda: before_and_after(pythons, folder, arguments.before),
        }
        for part in ["before_and_after"] if arguments.before else arguments.parts.split(","):
            rates = [matrix_product_rate() for _ in range(5)]
            results[part] = parts[part]()
            results["machine"] = machine() | {"matrix_product_gflops": statistics.median(rates) / 1e9}
            out.parent.mkdir(exist_ok=True)
            out.write_text(json.dumps(results, indent=1))
            is_table = part in ("side_by_side", "convolutions")
            print(table(results[part]) if is_table else json.dumps(results[part], indent=1), flush=True)


if __name__ == "__main__":
    main()
