"""python -m benchmarks.profile: where the time of a training step and of a likelihood goes, from XLA's own trace.

Prints milliseconds of each kind of operation, summed over threads; a product that spreads over threads counts on
the one that began it. Adam is the kinds with `divide` and most of `multiply_add`; `dynamic-` is the loop over nodes.
Then the time in which a matrix product is being computed, whatever else is, beside what its FLOPs take at the rate of
a large product: what part of the limit would be reached if all else cost nothing.
"""

import collections
import pathlib
import re
import statistics
import tempfile

import numpy as np

from benchmarks import peer_tf_ldiaf, peers
from benchmarks.speed import matrix_product_rate

# In XLA's trace, on top of its operations.
_AROUND = re.compile(
    r"^end:|^call|^while|^conditional|Thunk|Threadpool|Execut|Eager|TFE_|Block|inference|Await|Kernel|Prefetch|<lambda>"
)


def trace(work):
    """(start, end, name) of every operation of `work()`, in ms."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=3))
        work()
        tf.profiler.experimental.stop()
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
    return sorted(events)


def print_kinds(events, times, what):
    """Milliseconds of each kind of operation, of `times` equal pieces of work."""
    kinds = collections.Counter()
    for start, end, name in events:
        kinds[re.sub(r"[._]?\d+", "", name)] += (end - start) / times
    whole = (max(end for _, end, _ in events) - events[0][0]) / times
    print(f"{whole:.2f} ms {what}")
    for kind, milliseconds in kinds.most_common(15):
        print(f"{milliseconds:8.3f} ms  {kind}")


def covered(intervals):
    """The length of what (start, end) intervals cover together; by start, ascending."""
    length, until = 0.0, -float("inf")
    for start, end in intervals:
        length, until = length + max(0.0, end - max(start, until)), max(until, end)
    return length


def print_products(events, times, flops):
    """What part of the limit products alone would reach; `flops` of each of `times` equal pieces of work."""
    rate = statistics.median(matrix_product_rate() for _ in range(9))
    busy = covered((start, end) for start, end, name in events if re.match(r"MatMul|dot", name)) / times
    limit = flops / rate * 1e3
    print(
        f"Products are under way for {busy:.2f} ms. At {rate / 1e9:.0f} GFLOP/s, a large one's rate, they would take "
        f"{limit:.2f} ms: {limit / busy:.0%} of the limit if all else cost nothing."
    )


def main():
    batch_size, steps = 128, 25
    images = np.random.default_rng(0).integers(0, 2, (48_000, 784)).astype("uint8")
    contender = peer_tf_ldiaf.Contender(peers.SIZES, peers.init(peers.SIZES, 0), batch_size, "launch")
    contender.load_data(images)
    contender.log_likelihood(images[:batch_size], 100)
    events = trace(lambda: contender.log_likelihood(images[:batch_size], 100))
    print_kinds(events, 1, f"for the log-likelihood of {batch_size} images, S = 100")
    print_products(events, 1, batch_size * peers.likelihood_flops(peers.SIZES, 100))
    contender.train(steps)
    events = trace(lambda: contender.train(steps))
    print_kinds(events, steps, f"a step of {batch_size} images")
    print_products(events, steps, batch_size * peers.training_flops(peers.SIZES))
    print("One step: begin and length of all that takes 0.05 ms or more. The gaps are the loops over nodes.")
    names = collections.Counter(name for _, _, name in events)
    first = next(name for _, _, name in events if "MatMul" in name and names[name] == steps)  # the encoder's
    begins = [start for start, _, name in events if name == first]
    begin, end = begins[steps // 2 : steps // 2 + 2]
    for start, stop, name in events:
        if begin <= start < end and stop - start >= 0.05:
            print(f"{start - begin:8.2f} {stop - start:8.2f} ms  {name}")


if __name__ == "__main__":
    main()
