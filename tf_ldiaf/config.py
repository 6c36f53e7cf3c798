"""Every hyper-parameter, once: its default, its meaning, its range, its flag and its JSON form.

Nothing heavy is imported here, so that a command's `--help` and its flag errors come at once.
"""

import dataclasses
import difflib
import json
import math
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, Self

from absl import flags

_MOST = 2**31 - 1  # of any whole number: it fits what counts
_FLOWS = "a flow"
_GATES = "learned gates"

# The methods are settings of one model. `fixed` cannot be changed; `default` can.
_METHODS: dict[str, dict[str, dict[str, int]]] = {
    "vae": {"fixed": {"num_nodes": 1, "num_flow_steps": 0, "structure_epochs": 0}, "default": {"node_dim": 80}},
    "vae_iaf": {"fixed": {"num_nodes": 1, "structure_epochs": 0}, "default": {"node_dim": 80, "num_flow_steps": 2}},
    "fc_vae": {"fixed": {"num_flow_steps": 0, "structure_epochs": 0}, "default": {"num_nodes": 5, "node_dim": 16}},
    "graph_vae": {
        "fixed": {"num_flow_steps": 0},
        "default": {"num_nodes": 5, "node_dim": 16, "structure_epochs": 50},
    },
    "ldiaf": {
        "fixed": {},
        "default": {"num_nodes": 5, "node_dim": 16, "num_flow_steps": 2, "structure_epochs": 50},
    },
}


class ConfigError(ValueError):
    """A setting that cannot be used; its text is one sentence for the user."""


def _setting(
    default: Any,
    text: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    choices: tuple[str, ...] = (),
    needs: str = "",
) -> Any:
    """A field with its help text, its range (`open_*`: the end itself is excluded), and what it `needs`."""
    if high == math.inf:
        interval = f"greater than {low:g}" if open_low else f"at least {low:g}"
    else:
        interval = f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    metadata = {
        "help": text,
        "choices": choices,
        "needs": needs,
        "interval": interval,
        "admits": lambda value: (
            (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
        ),
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment: data, model and training, checked as a whole when it is made.

    Settings whose default is None are filled in from the method (`num_nodes`, `node_dim`,
    `num_flow_steps`, `structure_epochs`).

    Raises:
        ConfigError: a value of the wrong type or out of range, an unknown choice, or a setting
            that the method cannot use.
    """

    # What a run may go on with otherwise than it began: the data may have moved.
    CHANGEABLE: typing.ClassVar = ("data_dir", "on_nonfinite", "distribute")

    dataset: str = _setting("digits", "digits, the name of a TFDS image data set, an .npz file, or a folder of PNGs.")
    data_dir: str = _setting("", "Where TFDS keeps its prepared data sets (default: TFDS's own choice).")
    binarization: str = _setting(
        "threshold",
        "threshold: grey > 0.5. dynamic: a fresh Bernoulli(grey) at every visit (validation and test drawn once). "
        "none: the data are 0/1 already.",
        choices=("threshold", "dynamic", "none"),
    )
    validation_fraction: float = _setting(
        0.2,
        "Part of the training images held out when the data have no validation set (0: none is; a fifth of the "
        "training images, trained on like the others, is what validation numbers are then of).",
        low=0,
        high=0.9,
    )
    limit_train: int = _setting(0, "Train on this many images only (0: all).", low=0)

    stream: bool = _setting(
        False,
        "Read training images from the files of a TFDS data set in every epoch, shuffled within some ten thousand, "
        "instead of holding all in memory; of others 50,000 are held.",
    )

    method: str = _setting("ldiaf", "Which settings of the model.", choices=tuple(_METHODS))
    num_nodes: int = _setting(None, "N, latent nodes.", low=1, high=1000)
    node_dim: int = _setting(None, "D, dimensions of each node.", low=1, high=100_000)
    num_flow_steps: int = _setting(None, "T, inverse autoregressive steps per node.", low=0, high=1000)
    edges: str = _setting(
        "",
        "A latent graph to use instead of learning one, with pairs PARENT-CHILD where PARENT > CHILD, such as 5-1,4-2; "
        "or all, or none. --structure_epochs is then 0.",
    )
    root_components: int = _setting(
        0, "Prior of the root: a mixture of so many Gaussians, which are learned (0: N(0, I)).", low=0, high=100_000
    )
    encoder_units: tuple[int, ...] = _setting((512, 512, 256, 128), "Widths of the encoder.", low=1)
    decoder_units: tuple[int, ...] = _setting((256, 512, 512), "Hidden widths of the decoder.", low=1)
    channels: tuple[int, ...] = _setting(
        (),
        "Channels of 3 x 3 convolutions at a quarter of the image's height and width, such as 32,64, which the decoder "
        "ends with, and the encoder begins with from the last to the first (none: dense layers only).",
        low=1,
    )
    node_units: tuple[int, ...] = _setting((64,), "Hidden widths of every top-down and bottom-up network.", low=1)
    flow_units: tuple[int, ...] = _setting((64, 64), "Hidden widths of every masked network.", low=1, needs=_FLOWS)
    context_dim: int = _setting(32, "Width of h, what a node's flow is told of the image.", low=1, needs=_FLOWS)
    initial_gate_prob: float = _setting(0.95, "Gate probability at the start.", low=0.05, high=0.95, needs=_GATES)
    final_temperature: float = _setting(
        0.1,
        "The gates' temperature falls from 1 to this, geometrically, over --structure_epochs.",
        low=0,
        high=1,
        open_low=True,
        needs=_GATES,
    )
    edge_cost: float = _setting(
        0.35,
        "Price of an open gate while gates are learned, nats per image; it comes in as the temperature falls.",
        low=0,
        needs=_GATES,
    )

    structure_epochs: int = _setting(None, "Epochs that learn the gates, before they are fixed.", low=0)
    epochs: int = _setting(200, "Epochs with fixed gates.", low=1)
    batch_size: int = _setting(128, "Images per step.", low=1)
    optimizer: str = _setting("adam", "Optimizer.", choices=("adam", "adamw", "adamax"))
    learning_rate: float = _setting(2e-3, "Learning rate at the start of each phase.", low=0, open_low=True, high=10)
    learning_rate_schedule: str = _setting(
        "cosine", "cosine: falls to 0 over each phase. constant.", choices=("cosine", "constant")
    )
    weight_decay: float = _setting(0.0, "Decoupled weight decay (adamw only).", low=0, high=1)
    clip_norm: float = _setting(5.0, "Largest global norm of the gradient (0: not clipped).", low=0)
    kl_warmup_epochs: int = _setting(10, "Epochs over which the weight of the KL term rises to 1.", low=0)
    ema_decay: float = _setting(
        0.0,
        "Decay per step of the weights' moving average, which is then what is evaluated (0: none).",
        low=0,
        high=1,
        open_high=True,
    )
    early_stopping_patience: int = _setting(
        0, "Stop a phase after this many epochs without a better validation ELBO (0: never).", low=0
    )
    on_nonfinite: str = _setting(
        "stop",
        "When a term of a step is infinite or not a number: stop the run, or skip the step and count it.",
        choices=("stop", "skip"),
    )
    seed: int = _setting(0, "Everything random in a training is a function of it.", low=0, high=2**31 - 1)
    steps_per_execution: int = _setting(25, "Training steps in one launch; changes nothing but the speed.", low=1)
    distribute: str = _setting(
        "none",
        "none: one device. mirrored: all GPUs here. multi_worker: all workers that TF_CONFIG or Slurm name.",
        choices=("none", "mirrored", "multi_worker"),
    )
    jit_compile: bool = _setting(True, "Compile the training step with XLA.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))
        self._fill_in_method()
        for field in dataclasses.fields(self):
            if not self._uses(field) and getattr(self, field.name) != field.default:
                needs, value = field.metadata["needs"], _to_text(getattr(self, field.name))
                raise ConfigError(f"--{field.name} needs {needs}, which this {self.method} lacks. Received: {value}.")
        if self.weight_decay and self.optimizer != "adamw":
            raise ConfigError(
                f"--weight_decay needs --optimizer=adamw. Received: {self.weight_decay} with {self.optimizer}."
            )
        if self.stream and self.limit_train:
            raise ConfigError(f"--stream takes no --limit_train. Received: {self.limit_train}.")
        if self.on_nonfinite == "skip" and self.distribute != "none":
            raise ConfigError(f"--on_nonfinite=skip needs --distribute=none. Received: {self.distribute}.")

    def _uses(self, field: dataclasses.Field) -> bool:
        """Whether the model has what the setting needs."""
        return {"": True, _FLOWS: bool(self.num_flow_steps), _GATES: self.learns_gates}[field.metadata["needs"]]

    def _fill_in_method(self) -> None:
        method = _METHODS[self.method]
        if self.edges:
            if "structure_epochs" in method["fixed"]:
                raise ConfigError(f"--edges needs --method=graph_vae or --method=ldiaf. Received: {self.method}.")
            object.__setattr__(self, "structure_epochs", 0)
        for name, value in method["fixed"].items():
            given = getattr(self, name)
            if given not in (None, value):
                raise ConfigError(f"--{name} is always {value} with --method={self.method}. Received: {given}.")
        for name, value in (method["fixed"] | method["default"]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check_edges()
        if self.method in ("vae_iaf", "ldiaf") and not self.num_flow_steps:
            raise ConfigError(f"--num_flow_steps must be at least 1 with --method={self.method}. Received: 0.")
        if self.method in ("fc_vae", "graph_vae", "ldiaf") and self.num_nodes == 1:
            raise ConfigError(f"--num_nodes must be at least 2 with --method={self.method}. Received: 1.")
        if self.method in ("graph_vae", "ldiaf") and not (self.structure_epochs or self.edges):
            raise ConfigError(
                f"--structure_epochs must be at least 1 with --method={self.method}, which learns gates unless it is "
                "given --edges. Received: 0."
            )

    def _check_edges(self) -> None:
        pairs = [] if self.edges in ("", "all", "none") else [pair.strip() for pair in self.edges.split(",")]
        for parent, child in map(_edge, pairs):
            if not 1 <= child < parent <= self.num_nodes or len(set(map(_edge, pairs))) < len(pairs):
                raise ConfigError(
                    "--edges must be all, none, or different pairs PARENT-CHILD separated by commas, with "
                    f"{self.num_nodes} >= PARENT > CHILD >= 1. Received: {self.edges}."
                )
        if pairs:
            object.__setattr__(self, "edges", ",".join(sorted(pairs)))

    @property
    def learns_gates(self) -> bool:
        """Whether the latent graph is learned; otherwise it is `fixed_edges`."""
        return bool(self.structure_epochs)

    @property
    def fixed_edges(self) -> list[tuple[int, int]] | None:
        """The edges (parent, child) of a graph that is not learned, the nodes being 1 .. N; None if it is learned."""
        if self.learns_gates:
            return None
        if self.edges in ("", "all"):
            nodes = range(1, self.num_nodes + 1)
            return [(parent, child) for child in nodes for parent in nodes[child:]]
        return [] if self.edges == "none" else [_edge(pair) for pair in self.edges.split(",")]

    @property
    def dataset_name(self) -> str:
        """`dataset`, without the folders above a file: where it lay concerns no reader of a table or model card."""
        path = pathlib.PurePath(self.dataset)
        is_file = path.is_absolute() or path.suffix == ".npz" or self.dataset.startswith((".", "~"))
        return path.name if is_file else self.dataset

    def to_json(self) -> dict[str, Any]:
        """The settings that the model uses, as JSON types; `from_json` is the inverse."""
        used = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if self._uses(field)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in used.items()}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Settings from parsed JSON.

        Raises:
            ConfigError: an unknown name, or a value that the settings do not admit.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ConfigError(f"Settings must be among those of tf_ldiaf's Config. Received: {name}.{hint}")
        return cls(**dict[str, Any](settings))

    @classmethod
    def define_flags(cls) -> None:
        """Defines one absl flag per setting."""
        for field in dataclasses.fields(cls):
            kind, text = _kind(field), field.metadata["help"]
            default: Any = field.default
            if default is None:
                text += " Default: the method's."
            if kind is bool:
                flags.DEFINE_bool(field.name, default, text)
            elif kind is int:
                flags.DEFINE_integer(field.name, default, text)
            elif kind is float:
                flags.DEFINE_float(field.name, default, text)
            elif kind is tuple:
                flags.DEFINE_list(field.name, [str(v) for v in default], text + " Separated by commas.")
            elif field.metadata["choices"]:
                flags.DEFINE_enum(field.name, default, field.metadata["choices"], text)
            else:
                flags.DEFINE_string(field.name, default, text)

    @classmethod
    def given_flags(cls) -> dict[str, Any]:
        """The settings that the command line or a flagfile gave, for `from_json`.

        Raises:
            ConfigError: a list flag that holds something other than whole numbers.
        """
        given = {}
        for field in dataclasses.fields(cls):
            flag: Any = flags.FLAGS[field.name]
            if flag.present:
                given[field.name] = _integers(field.name, flag.value) if _kind(field) is tuple else flag.value
        return given

    def to_flags(self) -> list[str]:
        """The flags that make this configuration: the method, and departures from its defaults only."""
        usual = Config(method=self.method)
        names = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(usual, f.name)]
        if self.edges:
            names.remove("structure_epochs")
        return [f"--{name}={_to_text(getattr(self, name))}" for name in ["method", *names]]


def _kind(field: dataclasses.Field) -> type:
    """bool, int, float, str or tuple: what a setting is."""
    return typing.get_origin(field.type) or field.type  # pyright: ignore[reportReturnType]


def _edge(pair: str) -> tuple[int, int]:
    """(parent, child) of "5-1"; (0, 0), which is no edge, of what does not look like that."""
    parent, _, child = pair.partition("-")
    return (int(parent), int(child)) if parent.isdecimal() and child.isdecimal() else (0, 0)


def _to_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _integers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise ConfigError(f"--{name} must be whole numbers separated by commas. Received: {','.join(texts)}.") from None


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """`value` if the setting admits it (an int for a float setting becomes a float)."""
    kind, name = _kind(field), field.name
    if value is None and field.default is None:
        return value
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        expected = {tuple: "a list of whole numbers", str: "a string", int: "a whole number", bool: "true or false"}
        raise ConfigError(
            f"--{name} must be {expected.get(kind, 'a number')}. Received: {json.dumps(value, default=str)}."
        )
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"--{name} must be one of {', '.join(choices)}. Received: {value}.")
    if kind is tuple and not value and field.default:
        raise ConfigError(f"--{name} must name at least one width. Received: nothing.")
    numbers: Any = value if kind is tuple else (value,) if kind in (int, float) else ()
    for number in numbers:
        if type(number) not in (int, float) or (kind is tuple and type(number) is not int):
            raise ConfigError(f"--{name} must be a list of whole numbers. Received: {json.dumps(value, default=str)}.")
        if not ((kind is not float or math.isfinite(number)) and field.metadata["admits"](number)):
            raise ConfigError(f"--{name} must be {field.metadata['interval']}. Received: {number}.")
        if kind is not float and number > _MOST:
            raise ConfigError(f"--{name} must be at most {_MOST}. Received: {number}.")
    return value
