"""python -m benchmarks.stream: a data set larger than memory should hold, read from its files.

Writes a TFDS data set of many files, which are links to one, so that 25.6 million images of 28 x 28, 20 GB as arrays,
take 80 MB of the disk; no reader can tell. Then reads one epoch, alone: images/s, and the memory at every tenth of it.
Then trains on some launches, from the files and from as many images in memory, in turns: what reading costs a step.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np

from tf_ldiaf import cli

_SIDE, _LAUNCHES, _STEPS, _TURNS = 28, 10, 25, 5


def prepare(folder, num_files, images_per_file):
    """A data set `big` in `folder`, without its images being written more than once."""
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from sklearn.datasets import load_digits

    place = pathlib.Path(folder) / "big" / "1.0.0"
    place.mkdir(parents=True)
    digits = np.kron(load_digits().images, np.ones((4, 4)))[:, 2:-2, 2:-2] * (255 / 16)
    rng, features = (
        np.random.default_rng(0),
        tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1))}),
    )
    nums = {"train": num_files, "test": 1}
    names = [f"big-{split}.tfrecord-{i:05}-of-{num:05}" for split, num in nums.items() for i in range(num)]
    with tf.io.TFRecordWriter(str(place / names[0])) as writer:
        for i in rng.integers(len(digits), size=images_per_file):
            image = np.clip(digits[i] + rng.normal(scale=20, size=(_SIDE, _SIDE)), 0, 255).astype("uint8")
            writer.write(features.serialize_example({"image": image[..., np.newaxis]}))
    for name in names[1:]:
        os.link(place / names[0], place / name)
    template = tfds.core.ShardedFileTemplate(place, dataset_name="big", split="train", filetype_suffix="tfrecord")
    size = (place / names[0]).stat().st_size
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=num * [images_per_file],
            num_bytes=num * size,
            filename_template=template.replace(split=split),
        )
        for split, num in nums.items()
    ]
    tfds.folder_dataset.write_metadata(data_dir=str(place), features=features, split_infos=splits)


def resident():
    """MiB of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def read_one_epoch(train, batch_size):
    """images/s, and the resident MiB at every tenth of the epoch."""
    from tf_ldiaf import data

    steps, memory, began = data.steps_per_epoch(train, batch_size), [], time.monotonic()
    for i, _ in enumerate(data.training_batches(train, batch_size=batch_size, seed=0).take(steps)):
        if (i + 1) % -(-steps // 10) == 0 or i + 1 == steps:
            memory.append(round(resident()))
            print(f"{(i + 1) * batch_size:,} images, {memory[-1]:,} MiB", flush=True)
    return {"images_per_second": steps * batch_size / (time.monotonic() - began), "resident_mib": memory}


def train_in_turns(train, batch_size):
    """ms of a training step from the files and from memory, medians of turns; each turn opens its source anew."""
    from tf_ldiaf import LDIAF, data

    steps = _LAUNCHES * _STEPS
    in_memory = train.held_out(steps * batch_size / len(train))[0].array()
    model = LDIAF(edges=[(parent, child) for parent in range(2, 6) for child in range(1, parent)])
    model.compile("adamw")
    model.build((None, *train.image_shape))
    seconds = {"files": [], "memory": []}
    for turn in range(_TURNS + 1):
        for name, images in zip(seconds, (train, in_memory), strict=True):
            launches = data.training_launches(images, batch_size=batch_size, seed=0, steps_per_launch=_STEPS)
            began = time.monotonic()
            model.fit(launches, steps_per_epoch=_LAUNCHES, verbose=0)
            if turn:  # compiled in the first
                seconds[name].append(time.monotonic() - began)
    return {name: 1000 * statistics.median(found) / steps for name, found in seconds.items()}


def main():
    """Prints what it finds, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=256, help="How many files.")
    parser.add_argument("--images_per_file", type=int, default=100_000)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--out", default="benchmarks/results/stream.json", help="Where the numbers go.")
    arguments = parser.parse_args()
    with cli.quiet_tensorflow():
        from tf_ldiaf import data
        from tf_ldiaf.config import DataSettings
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, arguments.files, arguments.images_per_file)
        train = data.load_training(DataSettings(dataset="big", data_dir=folder, stream=True), seed=0).train
        found = {"images": len(train), "bytes_as_arrays": int(np.prod(train.shape)), "before_mib": round(resident())}
        print(f"{found['images']:,} images, {found['bytes_as_arrays'] / 1e9:.1f} GB as arrays.", flush=True)
        found |= read_one_epoch(train, arguments.batch_size)
        found["ms_per_step"] = train_in_turns(train, arguments.batch_size)
    print(json.dumps(found, indent=1))
    pathlib.Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
