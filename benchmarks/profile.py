"""python -m benchmarks.profile [--jax=PYTHON]: where the time of a training step and of a likelihood goes.

From XLA's own trace. Prints milliseconds of each kind of operation, summed over threads; a product that spreads over
threads counts on the one that began it. Adam is the kinds with `divide` and most of `multiply_add`; `dynamic-` is the
loop over nodes. Then the time in which a matrix product is being computed, whatever else is, beside what its FLOPs
take at the rate of a large product: what part of the limit would be reached if all else cost nothing. With --jax, the
Python of an environment that has it, the training step of JAX's scan is taken apart in the same way.
"""

import argparse
import collections
import pathlib
import re
import statistics
import sys
import tempfile

import numpy as np

from benchmarks import peers
from benchmarks.speed import Worker, matrix_product_rate

BATCH_SIZE, STEPS, NUM_SAMPLES = 128, 25, 100
# In XLA's trace, on top of its operations.
_AROUND = re.compile(
    r"^end:|^call|^while|^conditional|Thunk|Thread[pP]ool|Execut|Eager|TFE_|Block|inference|Await|Kernel|Prefetch"
    r"|<lambda>|^Wait"
)


def trace(worker, **request):
    """(start, end, name) of every operation of a worker's answer, in ms; and the pattern of its products' names."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        products = worker.ask(do="profile", folder=folder, **request)["products"]
        [file] = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    events = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if line.name.startswith("tf_") and not _AROUND.search(name):
                    start = line.timestamp_ns / 1e6 + event.offset_ps / 1e9
                    events.append((start, start + event.duration_ps / 1e9, name))
    return sorted(events), products


def print_kinds(events, times, what):
    """Milliseconds of each kind of operation, of `times` equal pieces of work."""
    kinds = collections.Counter()
    for start, end, name in events:
        kinds[re.sub(r"[._]?\d+", "", name)] += (end - start) / times
    whole = (max(end for _, end, _ in events) - events[0][0]) / times
    print(f"\n{whole:.2f} ms {what}")
    for kind, milliseconds in kinds.most_common(15):
        print(f"{milliseconds:8.3f} ms  {kind}")


def covered(intervals):
    """The length of what (start, end) intervals cover together; by start, ascending."""
    length, until = 0.0, -float("inf")
    for start, end in intervals:
        length, until = length + max(0.0, end - max(start, until)), max(until, end)
    return length


def print_products(events, products, times, flops):
    """What part of the limit products alone would reach; `flops` of each of `times` equal pieces of work."""
    rate = statistics.median(matrix_product_rate() for _ in range(9))
    busy = covered((start, end) for start, end, name in events if re.match(products, name)) / times
    if not busy:
        print("No matrix product was recognised in the trace.")
        return
    limit = flops / rate * 1e3
    print(
        f"Products are under way for {busy:.2f} ms. At {rate / 1e9:.0f} GFLOP/s, a large one's rate, they would take "
        f"{limit:.2f} ms: {limit / busy:.0%} of the limit if all else cost nothing."
    )


def print_one_step(events):
    print("One step: begin and length of all that takes 0.05 ms or more. The gaps are the loops over nodes.")
    names = collections.Counter(name for _, _, name in events)
    first = next(name for _, _, name in events if "MatMul" in name and names[name] == STEPS)  # the encoder's
    begins = [start for start, _, name in events if name == first]
    begin, end = begins[STEPS // 2 : STEPS // 2 + 2]
    for start, stop, name in events:
        if begin <= start < end and stop - start >= 0.05:
            print(f"{start - begin:8.2f} {stop - start:8.2f} ms  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax", help="Python with JAX.")
    arguments = parser.parse_args()
    contenders = {"tf_ldiaf": (sys.executable, "peer_tf_ldiaf", "launch")}
    if arguments.jax:
        contenders["JAX scan"] = (arguments.jax, "peer_jax", "scan")
    flops = BATCH_SIZE * peers.training_flops(peers.SIZES)
    with tempfile.TemporaryDirectory() as folder:
        data, x = f"{folder}/data.npy", f"{folder}/x.npy"
        images = np.random.default_rng(0).integers(0, 2, (48_000, 784)).astype("uint8")
        np.save(data, images)
        np.save(x, images[:BATCH_SIZE])
        for name, (python, module, variant) in contenders.items():
            worker = Worker(python, module, variant)
            worker.ask(do="setup", sizes=peers.SIZES, weights=None, batch_size=BATCH_SIZE, data=data)
            if module == "peer_tf_ldiaf":
                likelihood = {"x": x, "num_samples": NUM_SAMPLES}
                worker.ask(do="log_likelihood", **likelihood)
                events, products = trace(worker, what="log_likelihood", **likelihood)
                print_kinds(events, 1, f"for the log-likelihood of {BATCH_SIZE} images, S = {NUM_SAMPLES}, {name}")
                print_products(events, products, 1, BATCH_SIZE * peers.likelihood_flops(peers.SIZES, NUM_SAMPLES))
            worker.ask(do="train", steps=2 * STEPS)
            events, products = trace(worker, what="train", steps=STEPS)
            print_kinds(events, STEPS, f"a step of {BATCH_SIZE} images, {name}")
            print_products(events, products, STEPS, flops)
            if module == "peer_tf_ldiaf":
                print_one_step(events)
            worker.close()


if __name__ == "__main__":
    main()
