"""Settings: round trips, the table of methods, and every refusal's sentence."""

import dataclasses
import json
import math

import pytest
from absl import flags

from tf_ldiaf.config import Config, DataSettings, ExecutionSettings, ModelSettings, TrainingSettings
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.flags import define_settings, given_settings

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
METHODS = ["vae", "vae_iaf", "fc_vae", "graph_vae", "ldiaf"]

EVERY_SETTING_CHANGED = {
    "dataset": "mnist", "data_dir": "/a folder/with spaces", "binarization": "dynamic", "validation_fraction": 0.1,
    "limit_train": 1000, "image_size": (8, 6), "color": "keep", "arrays": "train:a,test:b c", "value_range": "-1,7.5",
    "skip_unreadable": True, "method": "graph_vae", "num_nodes": 3, "node_dim": 7, "num_flow_steps": 0,
    "encoder_units": (9, 8), "decoder_units": (5,), "channels": (0, 8, 9), "residual_blocks": 3,
    "root_components": 5, "prior_flow_steps": 1,
    "node_units": (4, 3, 2), "initial_gate_prob": 0.3, "final_temperature": 0.05, "edge_cost": 0.2,
    "structure_epochs": 11, "epochs": 12, "batch_size": 13, "optimizer": "adamw", "learning_rate": 1.23456789e-5,
    "learning_rate_schedule": "constant", "weight_decay": 0.01, "clip_norm": 0.0,
    "kl_warmup_epochs": 2, "ema_decay": 0.999, "early_stopping_patience": 4, "seed": 2**31 - 1,
    "steps_per_execution": 7, "jit_compile": False, "on_nonfinite": "skip",
}  # fmt: skip
FLOW_SETTINGS_CHANGED = {"method": "vae_iaf", "flow_units": (6, 5), "context_dim": 3, "distribute": "mirrored",
                         "stream": True, "decoder": "additive", "likelihood": "discretized_logistic",
                         "likelihood_components": 5}  # fmt: skip
EDGES_CHANGED = {"method": "ldiaf", "edges": "5-1,4-2"}
ROUND_TRIPS = [*({"method": method} for method in METHODS), EVERY_SETTING_CHANGED, FLOW_SETTINGS_CHANGED, EDGES_CHANGED]


def defined(*arguments):
    """The flags of the settings, after a command line."""
    values = flags.FlagValues()
    define_settings(values)
    values(["program", *arguments])
    return values


def from_command_line(arguments):
    return Config.from_json(given_settings(defined(*arguments)))


def test_the_round_trips_change_every_setting():
    changed = EVERY_SETTING_CHANGED | FLOW_SETTINGS_CHANGED | EDGES_CHANGED | {"method": "vae"}
    assert set(changed) == set(FIELDS)
    for name, value in changed.items():
        assert value != FIELDS[name].default, name


@pytest.mark.parametrize("settings", ROUND_TRIPS)
def test_json_round_trip(settings):
    config = Config(**settings)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_json_has_all_settings_but_those_of_parts_that_the_model_lacks():
    """So that a default that changes later does not concern runs without the part."""
    gates = {"initial_gate_prob", "final_temperature", "edge_cost"}
    binary = set(FIELDS) - {"likelihood_components", "residual_blocks"}
    assert set(Config(likelihood="discretized_logistic", channels=(3,)).to_json()) == set(FIELDS)
    assert set(Config().to_json()) == binary
    assert set(Config(edges="all").to_json()) == binary - gates
    assert set(Config(method="vae").to_json()) == binary - gates - {"flow_units", "context_dim"}


@pytest.mark.parametrize("settings", ROUND_TRIPS)
def test_flags_round_trip(settings):
    config = Config(**settings)
    arguments = config.to_flags()
    assert from_command_line(arguments) == config
    assert len(set(arguments)) == len(arguments)


def test_flags_name_only_departures_from_defaults():
    assert Config(method="vae_iaf", batch_size=FIELDS["batch_size"].default, epochs=3).to_flags() == [
        "--method=vae_iaf",
        "--epochs=3",
    ]
    assert from_command_line([]) == Config()


def test_every_setting_has_a_flag_with_help():
    values = defined()
    for name, field in FIELDS.items():
        assert field.metadata["help"].rstrip().endswith("."), name
        assert field.metadata["help"].rstrip(".") in values[name].help, name


def test_an_explicit_default_counts_as_given():
    values = defined("--epochs=200", "--nojit_compile", "--node_units=4,5")
    assert given_settings(values) == {"epochs": 200, "jit_compile": False, "node_units": (4, 5)}


@pytest.mark.parametrize(
    ("method", "num_nodes", "node_dim", "num_flow_steps", "learns_gates"),
    [
        ("vae", 1, 80, 0, False), ("vae_iaf", 1, 80, 2, False), ("fc_vae", 5, 16, 0, False),
        ("graph_vae", 5, 16, 0, True), ("ldiaf", 5, 16, 2, True),
    ],
)  # fmt: skip
def test_method_table(method, num_nodes, node_dim, num_flow_steps, learns_gates):
    config = Config(method=method)
    assert (config.num_nodes, config.node_dim, config.num_flow_steps) == (num_nodes, node_dim, num_flow_steps)
    assert config.learns_gates == learns_gates
    assert bool(config.structure_epochs) == learns_gates


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("all", [(2, 1), (3, 1), (3, 2)]),
        ("none", []),
        ("3-2, 2-1", [(2, 1), (3, 2)]),
    ],
)
def test_a_graph_that_is_given_is_not_learned(edges, expected):
    config = Config(method="ldiaf", num_nodes=3, edges=edges, structure_epochs=7)  # as a flagfile may say
    assert config.fixed_edges == expected
    assert not config.learns_gates
    assert not any("structure_epochs" in flag for flag in config.to_flags())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # wrong types
        ({"batch_size": 1.5}, ["`batch_size`", "a whole number", "1.5"]),
        ({"batch_size": True}, ["`batch_size`", "a whole number", "true"]),
        ({"batch_size": None}, ["`batch_size`", "a whole number", "null"]),
        ({"num_nodes": "3"}, ["`num_nodes`", "a whole number", '"3"']),
        ({"learning_rate": "fast"}, ["`learning_rate`", "a number", '"fast"']),
        ({"learning_rate": True}, ["`learning_rate`", "a number", "true"]),
        ({"dataset": 3}, ["`dataset`", "a string", "3"]),
        ({"jit_compile": 1}, ["`jit_compile`", "true or false", "1"]),
        ({"node_units": 64}, ["`node_units`", "a list of whole numbers", "64"]),
        ({"node_units": (8, 1.5)}, ["`node_units`", "a list of whole numbers", "1.5"]),
        ({"node_units": (8, True)}, ["`node_units`", "a list of whole numbers", "true"]),
        ({"node_units": ("8",)}, ["`node_units`", "a list of whole numbers", '"8"']),
        ({"node_units": ()}, ["`node_units`", "at least one width"]),
        # choices
        ({"method": "nvae"}, ["`method`", "vae, vae_iaf, fc_vae, graph_vae, ldiaf", "nvae"]),
        ({"binarization": "static"}, ["`binarization`", "threshold, dynamic, none", "static"]),
        ({"optimizer": "sgd"}, ["`optimizer`", "adam, adamw, adamax", "sgd"]),
        ({"learning_rate_schedule": "step"}, ["`learning_rate_schedule`", "cosine, constant", "step"]),
        # ranges
        ({"validation_fraction": -0.1}, ["`validation_fraction`", "[0, 0.9]", "-0.1"]),
        ({"validation_fraction": 0.91}, ["`validation_fraction`", "[0, 0.9]", "0.91"]),
        ({"limit_train": -1}, ["`limit_train`", "at least 0", "-1"]),
        ({"num_nodes": 0}, ["`num_nodes`", "[1, 1000]", "0"]),
        ({"num_nodes": 1001}, ["`num_nodes`", "[1, 1000]", "1001"]),
        ({"node_dim": 0}, ["`node_dim`", "[1, 100000]", "0"]),
        ({"num_flow_steps": -1}, ["`num_flow_steps`", "[0, 1000]", "-1"]),
        ({"encoder_units": (8, 0)}, ["`encoder_units`", "at least 1", "0"]),
        ({"decoder_units": (-8,)}, ["`decoder_units`", "at least 1", "-8"]),
        ({"decoder_units": ()}, ["`decoder_units`", "at least one width", "nothing"]),
        ({"channels": (8, 0)}, ["`channels`", "not end in 0", "8,0"]),
        ({"residual_blocks": 3}, ["`residual_blocks`", "needs channels", "3"]),
        ({"flow_units": (0,)}, ["`flow_units`", "at least 1", "0"]),
        ({"context_dim": 0}, ["`context_dim`", "at least 1", "0"]),
        ({"initial_gate_prob": 0.04}, ["`initial_gate_prob`", "[0.05, 0.95]", "0.04"]),
        ({"initial_gate_prob": 1}, ["`initial_gate_prob`", "[0.05, 0.95]", "1.0"]),
        ({"final_temperature": 0.0}, ["`final_temperature`", "(0, 1]", "0.0"]),
        ({"final_temperature": 1.5}, ["`final_temperature`", "(0, 1]", "1.5"]),
        ({"structure_epochs": -1}, ["`structure_epochs`", "at least 0", "-1"]),
        ({"epochs": 0}, ["`epochs`", "at least 1", "0"]),
        ({"batch_size": 0}, ["`batch_size`", "at least 1", "0"]),
        ({"learning_rate": 0.0}, ["`learning_rate`", "(0, 10]", "0.0"]),
        ({"learning_rate": 11}, ["`learning_rate`", "(0, 10]", "11.0"]),
        ({"learning_rate": math.nan}, ["`learning_rate`", "(0, 10]", "nan"]),
        ({"weight_decay": 1.5, "optimizer": "adamw"}, ["`weight_decay`", "[0, 1]", "1.5"]),
        ({"clip_norm": -1.0}, ["`clip_norm`", "at least 0", "-1.0"]),
        ({"clip_norm": math.inf}, ["`clip_norm`", "inf"]),
        ({"kl_warmup_epochs": -1}, ["`kl_warmup_epochs`", "at least 0", "-1"]),
        ({"ema_decay": 1.0}, ["`ema_decay`", "[0, 1)", "1.0"]),
        ({"early_stopping_patience": -1}, ["`early_stopping_patience`", "at least 0", "-1"]),
        ({"seed": -1}, ["`seed`", "-1"]),
        ({"seed": 2**31}, ["`seed`", str(2**31)]),
        # what a method excludes
        ({"method": "vae", "num_nodes": 2}, ["`num_nodes`", "always 1", "`method=vae`", "2"]),
        ({"method": "vae", "num_flow_steps": 1}, ["`num_flow_steps`", "always 0", "`method=vae`", "1"]),
        ({"edge_cost": -0.1}, ["`edge_cost`", "at least 0", "-0.1"]),
        ({"method": "fc_vae", "edge_cost": 0.1}, ["`edge_cost`", "learned gates", "fc_vae", "0.1"]),
        ({"method": "vae_iaf", "structure_epochs": 5}, ["`structure_epochs`", "always 0", "vae_iaf", "5"]),
        ({"method": "fc_vae", "structure_epochs": 5}, ["`structure_epochs`", "always 0", "fc_vae", "5"]),
        ({"method": "graph_vae", "num_flow_steps": 2}, ["`num_flow_steps`", "always 0", "graph_vae", "2"]),
        ({"method": "vae_iaf", "num_flow_steps": 0}, ["`num_flow_steps`", "at least 1", "vae_iaf", "0"]),
        ({"method": "ldiaf", "num_flow_steps": 0}, ["`num_flow_steps`", "at least 1", "ldiaf", "0"]),
        ({"method": "ldiaf", "num_nodes": 1}, ["`num_nodes`", "at least 2", "ldiaf", "1"]),
        ({"method": "fc_vae", "num_nodes": 1}, ["`num_nodes`", "at least 2", "fc_vae", "1"]),
        ({"method": "graph_vae", "structure_epochs": 0}, ["`structure_epochs`", "at least 1", "graph_vae", "0"]),
        ({"method": "fc_vae", "edges": "all"}, ["`edges`", "`method=graph_vae` or", "fc_vae"]),
        ({"edges": "all", "initial_gate_prob": 0.9}, ["`initial_gate_prob`", "learned gates", "0.9"]),
        ({"edges": "5-1,1-2"}, ["`edges`", "5 >= PARENT > CHILD", "5-1,1-2"]),
        ({"edges": "6-1"}, ["`edges`", "5 >= PARENT", "6-1"]),
        ({"edges": "5-5"}, ["`edges`", "PARENT > CHILD", "5-5"]),
        ({"edges": "2-1,2-1"}, ["`edges`", "different pairs", "2-1,2-1"]),
        ({"edges": "2-1,"}, ["`edges`", "separated by commas", "2-1,"]),
        ({"edges": "2>1"}, ["`edges`", "PARENT-CHILD", "2>1"]),
        ({"method": "vae", "flow_units": (8, 8)}, ["`flow_units`", "a flow", "vae lacks", "8,8"]),
        ({"method": "graph_vae", "context_dim": 8}, ["`context_dim`", "a flow", "graph_vae lacks", "8"]),
        ({"method": "fc_vae", "initial_gate_prob": 0.9}, ["`initial_gate_prob`", "learned gates", "fc_vae", "0.9"]),
        ({"decoder": "additive", "channels": (8,)}, ["`channels`", "`decoder=dense`", "8"]),
        ({"decoder": "sum"}, ["`decoder`", "dense, additive", "sum"]),
        ({"method": "vae", "final_temperature": 0.9}, ["`final_temperature`", "learned gates", "vae", "0.9"]),
        ({"weight_decay": 0.1}, ["`weight_decay`", "`optimizer=adamw`", "0.1 with adam"]),
    ],
)
def test_a_refusal_names_the_setting_what_was_expected_and_what_came(settings, words):
    with pytest.raises(ConfigError) as refusal:
        Config(**settings)
    text = str(refusal.value)
    expected, _, received = text.partition(" Received: ")
    assert received, text
    assert words[0] in expected, text
    assert words[-1] in received or words[0] == "`node_units`", text
    assert all(word in text for word in words), text
    assert text.endswith(".")
    assert "\n" not in text


def test_unknown_names_in_json_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"Received: lerning_rate\. Did you mean learning_rate\?"):
        Config.from_json({"lerning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"Received: qqq\.$"):
        Config.from_json({"qqq": 1})


def test_a_list_flag_of_words_is_refused():
    with pytest.raises(ConfigError, match=r"`node_units` must be whole numbers separated by commas. Received: 8,wide"):
        from_command_line(["--node_units=8,wide"])


def test_ends_of_closed_ranges_are_admitted():
    Config(validation_fraction=0.9, learning_rate=10, final_temperature=1, ema_decay=0, seed=0)
    Config(num_nodes=1000, node_dim=1, num_flow_steps=1000, clip_norm=0, structure_epochs=1, epochs=1, batch_size=1)


def test_a_config_cannot_be_changed_and_whole_numbers_become_floats():
    config = Config(clip_norm=3)
    assert isinstance(config.clip_norm, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3
    assert hash(config) == hash(Config(clip_norm=3.0))


def test_every_setting_is_in_one_group_and_in_its_part_of_the_help():
    groups = {
        "data": DataSettings,
        "model": ModelSettings,
        "training": TrainingSettings,
        "execution": ExecutionSettings,
    }
    names = {group: [field.name for field in dataclasses.fields(settings)] for group, settings in groups.items()}
    assert list(FIELDS) == [name for group in groups for name in names[group]]
    for group in groups:
        assert {flag.name for flag in defined().flags_by_module_dict()[group]} == set(names[group])


def test_a_group_alone_has_its_defaults_and_its_refusals():
    assert DataSettings(dataset="mnist").dataset_name == "mnist"
    assert ModelSettings(method="vae").num_nodes == 1
    assert ModelSettings(num_nodes=3, edges="all").fixed_edges == [(2, 1), (3, 1), (3, 2)]
    assert ModelSettings().learns_gates
    for group, settings, words in [
        (DataSettings, {"stream": True, "limit_train": 3}, "`stream` takes no `limit_train`"),
        (ModelSettings, {"method": "vae", "num_nodes": 2}, "`num_nodes` is always 1"),
        (ModelSettings, {"method": "vae", "context_dim": 2}, "`context_dim` needs a flow"),
        (TrainingSettings, {"weight_decay": 0.1}, "`weight_decay` needs `optimizer=adamw`"),
        (ExecutionSettings, {"steps_per_execution": 0}, "`steps_per_execution` must be at least 1"),
    ]:
        with pytest.raises(ConfigError, match=words):
            group(**settings)
