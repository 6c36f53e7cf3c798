"""The settings of the data, one of the four groups of `Config`."""

import dataclasses
import math
import pathlib

from tf_ldiaf.errors import ConfigError
from tf_ldiaf.fields import Checked, setting, to_text


@dataclasses.dataclass(frozen=True)
class DataSettings(Checked):
    """Which images, how they are split, and what is modelled of them."""

    dataset: str = setting(
        "digits",
        "digits, the name of a TFDS image data set, a file of images (.npz, .mat, CSV, ...), or a folder of them.",
    )
    data_dir: str = setting("", "Where TFDS keeps its prepared data sets (default: TFDS's own choice).")
    likelihood: str = setting(
        "bernoulli",
        "What a pixel may be, and so what a model says of it. bernoulli: black or white. discretized_logistic: one of "
        "256 values, near ones alike; for grey and colour. categorical: one of 256 values, each with a probability of "
        "its own.",
        choices=("bernoulli", "discretized_logistic", "categorical"),
    )
    binarization: str = setting(
        None,
        "How grey becomes black or white, with --likelihood=bernoulli. threshold: grey > 0.5. dynamic: a fresh "
        "Bernoulli(grey) at every visit (validation and test drawn once). none: the data are 0/1 already. Default: "
        "threshold; and none with another likelihood, which takes grey and colour as they are.",
        choices=("threshold", "dynamic", "none"),
    )
    validation_fraction: float = setting(
        0.2,
        "Part of the training images held out when the data have no validation set. 0: none is, and a validation set "
        "is trained on, too; validation numbers are then of a fifth of what is trained on.",
        low=0,
        high=0.9,
    )
    color: str = setting(
        "auto",
        "Whether colour is kept, or becomes grey. auto: it is kept where pixels have 256 values.",
        choices=("auto", "keep", "grey"),
    )
    image_size: tuple[int, ...] = setting(
        (), "HEIGHT,WIDTH: images are cropped to this aspect, and scaled (none: as they are).", low=1, high=10_000
    )
    arrays: str = setting(
        "", "Which arrays of a file the sets are, as train:NAME,test:NAME, where their names do not say it."
    )
    value_range: str = setting("", "BLACK,WHITE: the values of pixels that are so, where they do not say it.")
    skip_unreadable: bool = setting(False, "Leave out pictures that cannot be read.")
    limit_train: int = setting(0, "Train on this many images only (0: all).", low=0)
    stream: bool = setting(
        False,
        "Read training images again in every epoch, instead of holding all in memory: those of TFDS, shuffled "
        "within some ten thousand, or those of a folder of pictures. Of other images 50,000 are held.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset.strip():
            raise ConfigError("`dataset` must be a name or a path. Received: nothing.")
        if len(self.image_size) not in (0, 2):
            raise ConfigError(f"`image_size` must be HEIGHT,WIDTH. Received: {to_text(self.image_size)}.")
        _ = self.chosen_arrays, self.values_from_to  # are checked
        if self.binarization is None:
            self._set("binarization", "threshold" if self.is_binary else "none")
        if self.binarization != "none" and not self.is_binary:
            raise ConfigError(
                f"`binarization` must be none with `likelihood={self.likelihood}`. Received: {self.binarization}."
            )
        for name in ("limit_train", "value_range", "skip_unreadable") if self.stream else ():
            if getattr(self, name):
                raise ConfigError(f"`stream` takes no `{name}`. Received: {getattr(self, name)}.")

    @property
    def chosen_arrays(self) -> dict[str, str]:
        """train, valid, test -> the array that `arrays` says."""
        pairs = [pair.partition(":")[::2] for pair in self.arrays.split(",") if self.arrays]
        found = {split: name for split, name in pairs if split in ("train", "valid", "test") and name}
        if len(found) < len(pairs) or (pairs and "train" not in found):
            raise ConfigError(
                "`arrays` must be pairs SET:NAME separated by commas, for train and perhaps valid and test. "
                f"Received: {self.arrays}."
            )
        return found

    @property
    def values_from_to(self) -> tuple[float, float] | None:
        """What `value_range` says."""
        return range_of(self.value_range)

    @property
    def is_binary(self) -> bool:
        """Whether pixels are made 0 and 1. Otherwise they are whole numbers from 0 to 255."""
        return self.likelihood == "bernoulli"

    @property
    def keeps_colour(self) -> bool:
        """Whether images of colour are [n, H, W, 3]."""
        return self.color == "keep" or (self.color == "auto" and not self.is_binary)

    @property
    def kind_of_pixels(self) -> str:
        """How they became binary, or that they are not: numbers of different kinds do not compare."""
        return self.binarization if self.is_binary else "256 values"

    @property
    def dataset_name(self) -> str:
        """`dataset`, without the folders above a file: where it lay concerns no reader of a table or model card."""
        path = pathlib.Path(self.dataset)
        is_file = path.is_absolute() or bool(path.suffix) or self.dataset.startswith((".", "~"))
        return (path.name or path.resolve().name or str(path)) if is_file else self.dataset.rstrip("/")


def range_of(text: str) -> tuple[float, float] | None:
    """Black and white, of what the flag --value_range takes; None of nothing.

    Raises:
        ConfigError: it is no such text.
    """
    if not text:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise ConfigError(
            f"`value_range` must be BLACK,WHITE, two numbers of which the second is larger. Received: {text}."
        )
    return low, high
