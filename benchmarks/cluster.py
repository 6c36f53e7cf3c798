"""python -m benchmarks.cluster: one process, then 2 and 4 workers on this machine's same cores, the same global batch.

What is lost is what workers cost: collectives over loopback, one launch a step in place of 25, and an optimizer that
runs in every worker. Several machines would add cores; these share them.
"""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from absl import app, flags

from tf_ldiaf.results.run_folder import RunFolder

flags.DEFINE_list("workers", ["2", "4"], "How many, one run each.")
flags.DEFINE_integer("batch_size", 256, "Images per step, all workers together.", lower_bound=1)
flags.DEFINE_string("out", "benchmarks/results/cluster.json", "Where the numbers go.")

_IMAGES, _EPOCHS = 25_600, 4
REPO = pathlib.Path(__file__).parents[1]


def measure(num, place, batch_size):
    """images/s of an epoch's training steps after the first epoch, the median, and the largest resident set in MiB."""
    cores, hosts = len(os.sched_getaffinity(0)), []
    for _ in range(num):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            hosts.append(f"127.0.0.1:{held.getsockname()[1]}")
    folder = place / f"run-{num}"
    line = [sys.executable, "-m", "tf_ldiaf.train", f"--dataset={place / 'images.npz'}", "--binarization=none"]
    line += ["--edges=all", f"--epochs={_EPOCHS}", f"--batch_size={batch_size}", f"--run_dir={folder}"]
    line += ["--optimizer=adamw", "--weight_decay=0.2", f"--distribute={'multi_worker' if num > 1 else 'none'}"]
    workers = []
    for i in range(num):
        env = os.environ | {"TF_NUM_INTRAOP_THREADS": str(max(1, cores // num)), "PYTHONPATH": str(REPO)}
        if num > 1:
            task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
            env["TF_CONFIG"] = json.dumps(task)
        workers.append(subprocess.Popen(line, env=env, cwd=place, stdout=subprocess.DEVNULL))
    memory = [os.wait4(worker.pid, 0) for worker in workers]
    if any(status for _, status, _ in memory):
        raise SystemExit(f"{num} workers: one of them failed.")
    speeds = [row["images_per_second"] for row in RunFolder(folder).read_history()][1:]
    return {"images_per_second": statistics.median(speeds), "peak_mib": max(u.ru_maxrss for _, _, u in memory) / 1024}


def main(_):
    """Prints the table and writes the numbers."""
    batch_size = flags.FLAGS.batch_size
    with tempfile.TemporaryDirectory() as place:
        images = (np.random.default_rng(0).random((_IMAGES, 28, 28)) < 0.15).astype("uint8")
        np.savez(pathlib.Path(place) / "images.npz", train=images, valid=images[:256], test=images[:256])
        found = {num: measure(num, pathlib.Path(place), batch_size) for num in [1, *map(int, flags.FLAGS.workers)]}
    alone = found[1]["images_per_second"]
    print("| workers | images/s | ms a step | of one process | MiB a worker |\n|---|---|---|---|---|")
    for num, row in found.items():
        row["ms_per_step"] = 1000 * batch_size / row["images_per_second"]
        print(
            f"| {num} | {row['images_per_second']:,.0f} | {row['ms_per_step']:.1f} | "
            f"{row['images_per_second'] / alone:.0%} | {row['peak_mib']:,.0f} |"
        )
    pathlib.Path(flags.FLAGS.out).write_text(json.dumps({"batch_size": batch_size, "workers": found}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
