"""python -m benchmarks.gpu_export --out=FOLDER: the training step for a GPU machine that has JAX and no TensorFlow.

Writes K training steps as one StableHLO program (TensorFlow and JAX share their compiler), all variables, and the
training images, packed to bits. The program keeps images and variables on the device, and draws the order of the images
and all noise itself. `python benchmarks/gpu_run.py FOLDER` runs it there; `load` brings the trained variables back.
"""

import json
import pathlib
import re

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import peers
from tf_ldiaf import Config, data
from tf_ldiaf.flags import define_settings, given_settings
from tf_ldiaf.layers.gates import all_gates_open, edges_of
from tf_ldiaf.probability.noise import uniform
from tf_ldiaf.training.phases import make_model


def epoch_order(num_images, seed, epoch):
    """A permutation of the images, [num_images] int32: XLA has no shuffle, but it can sort."""
    return tf.argsort(uniform((1, 1, num_images, 1), tf.stack([seed, epoch]))[0, 0, :, 0], stable=True)


def make_launch(model, num_images, num_steps, batch):
    """A compiled function of (packed images [n, X / 8] uint8, call int32): `num_steps` steps on `batch` images each.

    The order of the images is a function of (seed, epoch); calls 0, 1, 2, .. go through the epochs one after another.
    Returns the mean ELBO of all calls so far, nats.
    """
    per_epoch = num_images // (batch * num_steps)

    @tf.function(jit_compile=True, autograph=False)
    def launch(packed, call):
        order = epoch_order(num_images, model.objective.seed, call // per_epoch)
        # Not a slice: its beginning would be compiled into the program.
        rows = tf.gather(order, call % per_epoch * num_steps * batch + tf.range(num_steps * batch))
        rows = tf.reshape(tf.gather(packed, rows), [num_steps, batch, -1, 1])
        bits = tf.bitwise.right_shift(rows, tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8)) & 1
        images = tf.reshape(bits, [num_steps, batch, -1])[..., : model.num_dims]
        return model.train_step((tf.reshape(images, [num_steps, batch, *model.image_shape]), tf.constant(num_steps)))[
            "elbo"
        ]

    return launch


def variables(model):
    """Every tf.Variable that a launch may touch."""
    own = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return [variable.value for variable in own]


def _captured(launch, arguments, model):
    by_handle = {variable.handle._id: variable for variable in variables(model)}
    return [by_handle[outer._id] for outer, _ in launch.get_concrete_function(*arguments).graph.captures]


def export(launch, arguments, model, config, num_steps, folder):
    """Writes step.mlir (StableHLO), state.npz (variables, in the program's order) and step.json."""
    folder.mkdir(parents=True, exist_ok=True)
    captured = _captured(launch, arguments, model)
    compiler_ir = launch.experimental_get_compiler_ir(*arguments)
    header = compiler_ir(stage="hlo", platform_name="CPU").partition("\n")[0]
    # "{1}: (2, {}, may-alias)": output 1 is the new value of parameter 2.
    outputs = {int(parameter): int(output) for output, parameter in re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)}
    (folder / "step.mlir").write_text(str(compiler_ir(stage="stablehlo", platform_name="CPU")))
    np.savez(folder / "state.npz", **{f"v{i}": variable.numpy() for i, variable in enumerate(captured)})
    sizes = {name: getattr(config, name, model.num_dims) for name in peers.SIZES}
    meta = {
        "num_variables": len(captured),
        "output_of_parameter": outputs,
        "steps_per_call": num_steps,
        "batch_size": config.batch_size,
        "flops_per_image": peers.training_flops(sizes),
    }
    (folder / "step.json").write_text(json.dumps(meta, indent=1))


def load(launch, arguments, model, file):
    """Gives the model and its optimizer the variables that `gpu_run` wrote."""
    state = np.load(file)
    for i, variable in enumerate(_captured(launch, arguments, model)):
        variable.assign(state[f"v{i}"])


def main(_):
    config = Config.from_json(given_settings())
    images = data.load_training(config, config.seed).train
    edges = edges_of(all_gates_open(config.num_nodes))
    num_steps = config.epochs * data.steps_per_epoch(images, config.batch_size)
    model = make_model(config, edges, images.shape[1:], num_steps)
    model.optimizer.build(model.trainable_variables)
    packed = np.packbits(images.reshape(len(images), -1), axis=1)
    launch = make_launch(model, len(images), flags.FLAGS.steps, config.batch_size)
    folder = pathlib.Path(flags.FLAGS.out)
    export(launch, (tf.constant(packed), tf.constant(0)), model, config, flags.FLAGS.steps, folder)
    np.save(folder / "data.npy", packed)


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Where to write.", required=True)
    flags.DEFINE_integer("steps", 25, "K, training steps in one call.", lower_bound=1)
    define_settings()
    app.run(main)
