"""Images: from a data set to binary images, split, and to the batches that a model is trained and evaluated on."""

from tf_ldiaf.data.arrays import as_coloured
from tf_ldiaf.data.batches import (
    evaluation_batch_size,
    evaluation_batches,
    launches_per_epoch,
    num_evaluation_batches,
    steps_per_epoch,
    training_batches,
    training_launches,
)  # fmt: skip
from tf_ldiaf.data.binarization import draw
from tf_ldiaf.data.images import TrainingImages, described, load, load_test, load_training, read_images, test_checksum
from tf_ldiaf.data.records import Records
from tf_ldiaf.data.sources import check_apart

__all__ = [
    "Records", "TrainingImages", "as_coloured", "check_apart", "described", "draw",
    "evaluation_batch_size", "evaluation_batches", "launches_per_epoch",
    "load", "load_test", "load_training", "num_evaluation_batches", "read_images", "steps_per_epoch", "test_checksum",
    "training_batches",
    "training_launches",
]  # fmt: skip
