"""Every hyper-parameter, once, in four groups: its default, its meaning, its range and its JSON form.

Nothing heavy is imported here, so that a command's `--help` and its flag errors come at once.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Self

from tf_ldiaf.data_settings import DataSettings
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.fields import Checked, setting, to_text

_FLOWS = "a flow"
_GATES = "learned gates"
_CHANNELS = "channels"
_LOGISTICS = "the likelihood discretized_logistic"

# The methods are settings of one model. `fixed` cannot be changed; `default` can. Whether gates are learned is whether
# `structure_epochs` can be changed.
_METHODS: dict[str, dict[str, dict[str, int]]] = {
    "vae": {"fixed": {"num_nodes": 1, "num_flow_steps": 0, "structure_epochs": 0}, "default": {"node_dim": 80}},
    "vae_iaf": {"fixed": {"num_nodes": 1, "structure_epochs": 0}, "default": {"node_dim": 80, "num_flow_steps": 2}},
    "fc_vae": {"fixed": {"num_flow_steps": 0, "structure_epochs": 0}, "default": {"num_nodes": 5, "node_dim": 16}},
    "graph_vae": {"fixed": {"num_flow_steps": 0}, "default": {"num_nodes": 5, "node_dim": 16, "structure_epochs": 50}},
    "ldiaf": {"fixed": {}, "default": {"num_nodes": 5, "node_dim": 16, "num_flow_steps": 2, "structure_epochs": 50}},
}


@dataclasses.dataclass(frozen=True)
class ModelSettings(Checked):
    """Which model: its latent graph and the sizes of its networks; what is None is filled in from the method."""

    method: str = setting("ldiaf", "Which settings of the model.", choices=tuple(_METHODS))
    num_nodes: int = setting(None, "N, latent nodes. Default: the method's.", low=1, high=1000)
    node_dim: int = setting(None, "D, dimensions of each node. Default: the method's.", low=1, high=100_000)
    num_flow_steps: int = setting(
        None, "T, inverse autoregressive steps per node. Default: the method's.", low=0, high=1000
    )
    prior_flow_steps: int = setting(
        0,
        "Flow steps of each node's prior (0: none). Drawing takes D passes of each step's network.",
        low=0,
        high=1000,
    )
    edges: str = setting(
        "",
        "A latent graph to use instead of learning one, with pairs PARENT-CHILD where PARENT > CHILD, such as 5-1,4-2; "
        "or all, or none. --structure_epochs is then 0.",
    )
    root_components: int = setting(
        0, "Prior of the root: a mixture of so many Gaussians, which are learned (0: N(0, I)).", low=0, high=100_000
    )
    encoder_units: tuple[int, ...] = setting((512, 512, 256, 128), "Widths of the encoder.", low=1)
    decoder: str = setting(
        "dense",
        "dense: one network draws the picture. additive: each node has a network of its own, of --decoder_units, and "
        "adds a picture to the others', so that one can see what a node draws.",
        choices=("dense", "additive"),
    )
    decoder_units: tuple[int, ...] = setting((256, 512, 512), "Hidden widths of the decoder.", low=1)
    channels: tuple[int, ...] = setting(
        (),
        "Channels of residual convolutions at full, half, a quarter of the image's height and width, and so on. 0 "
        "leaves a resolution out, as in 0,32,64 (none: dense layers only).",
        low=0,
        high=10_000,
    )
    residual_blocks: int = setting(
        2, "Residual blocks at each resolution, in encoder and decoder.", low=0, high=1000, needs=_CHANNELS
    )
    node_units: tuple[int, ...] = setting((64, 64), "Hidden widths of every top-down and bottom-up network.", low=1)
    flow_units: tuple[int, ...] = setting((64, 64), "Hidden widths of every masked network.", low=1, needs=_FLOWS)
    context_dim: int = setting(
        32, "Width of h, what a flow is told of the image (in the prior: of the parents).", low=1, needs=_FLOWS
    )
    initial_gate_prob: float = setting(0.5, "Gate probability at the start.", low=0.05, high=0.95, needs=_GATES)
    likelihood_components: int = setting(
        None,
        "Logistics that are mixed in each pixel, with --likelihood=discretized_logistic. Default: 1 for grey images, "
        "10 for colour.",
        low=1,
        high=1000,
        needs=_LOGISTICS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._fill_in_method()
        self._check_edges()
        if self.channels and not self.channels[-1]:
            raise ConfigError(f"`channels` must not end in 0. Received: {to_text(self.channels)}.")
        if self.decoder == "additive" and self.channels:
            raise ConfigError(f"`channels` needs `decoder=dense`. Received: {to_text(self.channels)} with additive.")
        if self.method in ("vae_iaf", "ldiaf") and not self.num_flow_steps:
            raise ConfigError(f"`num_flow_steps` must be at least 1 with `method={self.method}`. Received: 0.")
        if self.method in ("fc_vae", "graph_vae", "ldiaf") and self.num_nodes == 1:
            raise ConfigError(f"`num_nodes` must be at least 2 with `method={self.method}`. Received: 1.")
        for field in dataclasses.fields(self):
            value, needs = getattr(self, field.name), field.metadata["needs"]
            if value != field.default and not self._uses(field):
                raise ConfigError(
                    f"`{field.name}` needs {needs}, which this {self.method} lacks. Received: {to_text(value)}."
                )

    def _uses(self, field: dataclasses.Field) -> bool:
        """Whether the model has what the setting needs."""
        likelihood = getattr(self, "likelihood", "discretized_logistic")  # a setting of the data
        has = {"": True, _FLOWS: bool(self.num_flow_steps or self.prior_flow_steps), _GATES: self.learns_gates}
        has |= {_CHANNELS: bool(self.channels), _LOGISTICS: likelihood == "discretized_logistic"}
        return has[field.metadata["needs"]]

    def _fill_in_method(self) -> None:
        method = _METHODS[self.method]
        if self.edges and "structure_epochs" in method["fixed"]:
            raise ConfigError(f"`edges` needs `method=graph_vae` or `method=ldiaf`. Received: {self.method}.")
        for name, value in (method["fixed"] | method["default"]).items():
            given = getattr(self, name, value)  # `structure_epochs` is a setting of the training
            if name in method["fixed"] and given not in (None, value):
                raise ConfigError(f"`{name}` is always {value} with `method={self.method}`. Received: {given}.")
            if given is None:
                self._set(name, value)

    def _check_edges(self) -> None:
        pairs = [] if self.edges in ("", "all", "none") else [pair.strip() for pair in self.edges.split(",")]
        for parent, child in map(_edge, pairs):
            if not 1 <= child < parent <= self.num_nodes or len(set(map(_edge, pairs))) < len(pairs):
                raise ConfigError(
                    "`edges` must be all, none, or different pairs PARENT-CHILD separated by commas, with "
                    f"{self.num_nodes} >= PARENT > CHILD >= 1. Received: {self.edges}."
                )
        if pairs:
            self._set("edges", ",".join(sorted(pairs)))

    @property
    def learns_gates(self) -> bool:
        """Whether the latent graph is learned; otherwise it is `fixed_edges`."""
        return not self.edges and "structure_epochs" in _METHODS[self.method]["default"]

    @property
    def fixed_edges(self) -> list[tuple[int, int]] | None:
        """The edges (parent, child) of a graph that is not learned, the nodes being 1 .. N; None if it is learned."""
        if self.learns_gates:
            return None
        if self.edges in ("", "all"):
            nodes = range(1, self.num_nodes + 1)
            return [(parent, child) for child in nodes for parent in nodes[child:]]
        return [] if self.edges == "none" else [_edge(pair) for pair in self.edges.split(",")]


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Checked):
    """How a model is trained; `Config` fills in `structure_epochs` from the method."""

    structure_epochs: int = setting(
        None, "Epochs that learn the gates, before they are fixed. Default: the method's.", low=0
    )
    final_temperature: float = setting(
        0.1,
        "The gates' temperature falls from 1 to this, geometrically, over --structure_epochs.",
        low=0,
        high=1,
        open_low=True,
        needs=_GATES,
    )
    edge_cost: float = setting(
        0.05,
        "Nats per image that an edge must be worth. The price of an open gate while gates are learned; edges that are "
        "then worth less are removed.",
        low=0,
        needs=_GATES,
    )
    epochs: int = setting(200, "Epochs with fixed gates.", low=1)
    batch_size: int = setting(128, "Images per step.", low=1)
    optimizer: str = setting("adam", "Optimizer.", choices=("adam", "adamw", "adamax"))
    learning_rate: float = setting(2e-3, "Learning rate at the start of each phase.", low=0, open_low=True, high=10)
    learning_rate_schedule: str = setting(
        "cosine", "cosine: falls to 0 over each phase. constant.", choices=("cosine", "constant")
    )
    weight_decay: float = setting(0.0, "Decoupled weight decay (adamw only).", low=0, high=1)
    clip_norm: float = setting(5.0, "Largest global norm of the gradient (0: not clipped).", low=0)
    kl_warmup_epochs: int = setting(10, "Epochs over which the weight of the KL term rises to 1.", low=0)
    ema_decay: float = setting(
        0.0,
        "Decay per step of the weights' moving average, which is then what is evaluated (0: none).",
        low=0,
        high=1,
        open_high=True,
    )
    early_stopping_patience: int = setting(
        0, "Stop a phase after this many epochs without a better validation ELBO (0: never).", low=0
    )
    on_nonfinite: str = setting(
        "stop",
        "When a term of a step is infinite or not a number: stop the run, or skip the step and count it.",
        choices=("stop", "skip"),
    )
    seed: int = setting(0, "Everything random in a training is a function of it.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay and self.optimizer != "adamw":
            raise ConfigError(
                f"`weight_decay` needs `optimizer=adamw`. Received: {self.weight_decay} with {self.optimizer}."
            )


@dataclasses.dataclass(frozen=True)
class ExecutionSettings(Checked):
    """On which devices, and how compiled."""

    steps_per_execution: int = setting(25, "Training steps in one launch; changes nothing but the speed.", low=1)
    distribute: str = setting(
        "none",
        "none: one device. mirrored: all GPUs here. multi_worker: all workers that TF_CONFIG or Slurm name.",
        choices=("none", "mirrored", "multi_worker"),
    )
    jit_compile: bool = setting(True, "Compile the training step with XLA.")


@dataclasses.dataclass(frozen=True)
class Config(ExecutionSettings, TrainingSettings, ModelSettings, DataSettings):
    """One experiment: data, model, training and execution, checked as a whole when it is made.

    Settings whose default is None are filled in: `num_nodes`, `node_dim`, `num_flow_steps` and `structure_epochs` from
    the method, `binarization` from the likelihood. `likelihood_components` depends on the images, and stays.

    Raises:
        ConfigError: a value of the wrong type or out of range, an unknown choice, or settings that exclude each other.
            A group of settings alone says the same of its own.
    """

    # What a run may go on with otherwise than it began: the data may have moved.
    _CHANGEABLE: typing.ClassVar = ("dataset", "data_dir", "on_nonfinite", "distribute")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edges:
            self._set("structure_epochs", 0)
        if self.learns_gates and not self.structure_epochs:
            raise ConfigError(
                f"`structure_epochs` must be at least 1 with `method={self.method}`, which learns gates unless it is "
                "given `edges`. Received: 0."
            )
        if self.on_nonfinite == "skip" and self.distribute != "none":
            raise ConfigError(f"`on_nonfinite=skip` needs `distribute=none`. Received: {self.distribute}.")

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

    def changed(self, given: Mapping[str, Any]) -> Self:
        """These settings for a run that goes on, with what `given` changes of them.

        Raises:
            ConfigError: what cannot be changed any more.
        """
        changes = {name: value for name, value in given.items() if name in (*self._CHANGEABLE, "epochs")}
        changed = dataclasses.replace(self, **changes)
        if changed.epochs < self.epochs:
            raise ConfigError(
                f"`epochs` must be at least {self.epochs}, as in the run to resume, which can only be made longer. "
                f"Received: {changed.epochs}."
            )
        wanted = dataclasses.replace(self, **given)
        for name in given:
            if getattr(wanted, name) != getattr(changed, name):
                pair = (getattr(self, name), getattr(wanted, name))
                ours, theirs = ("nothing" if value == "" else to_text(value) for value in pair)
                raise ConfigError(
                    f"`{name}` must be {ours} as in the run to resume; only `dataset`, `data_dir`, `on_nonfinite`, "
                    f"`distribute` and more `epochs` are taken. Received: {theirs}."
                )
        return changed

    def to_flags(self) -> list[str]:
        """The flags that make this configuration: the method, and departures from what follows from it only."""
        first = ["method"] if self.is_binary else ["method", "likelihood"]
        usual = Config(**{name: getattr(self, name) for name in first})
        names = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(usual, f.name)]
        if self.edges:
            names.remove("structure_epochs")
        return [f"--{name}={to_text(getattr(self, name))}" for name in [*first, *names]]


def _edge(pair: str) -> tuple[int, int]:
    """(parent, child) of "5-1"; (0, 0), which is no edge, of what does not look like that."""
    parent, _, child = pair.partition("-")
    return (int(parent), int(child)) if parent.isdecimal() and child.isdecimal() else (0, 0)
