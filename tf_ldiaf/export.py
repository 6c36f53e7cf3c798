"""python -m tf_ldiaf.export: a SavedModel that needs nothing but TensorFlow."""

import pathlib

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.results.run_folder import RunFolder

flags.DEFINE_string("run_dir", "", "The folder of a trained run.")
flags.DEFINE_string("out", "", "Where the SavedModel goes (default: saved_models/NAME OF THE RUN).")
flags.DEFINE_bool("overwrite", False, "Replace the SavedModel in --out.")


def main() -> None:
    """Exports the run's best weights."""
    cli.required("run_dir")
    folder = RunFolder(flags.FLAGS.run_dir)
    folder.read_config()
    out = flags.FLAGS.out or f"saved_models/{folder.path.resolve().name}"
    if not pathlib.Path(out).name:
        raise ConfigError(f"--out must be the name of a folder. Received: {out}.")
    with cli.quiet_tensorflow():
        from tf_ldiaf.results import saved_model
    if saved_model.occupied(out, flags.FLAGS.overwrite):
        raise ConfigError(
            f"--out must be a new folder. Received: {out}, which holds "
            + ("a SavedModel; --overwrite replaces it." if saved_model.is_saved_model(out) else "other things.")
        )
    saved_model.export(folder, out)
    print(f"SavedModel: {out}\nNext: python -m tf_ldiaf.sample --saved_model={out} --num=64 --out=samples.png")


if __name__ == "__main__":
    cli.run(main, "Writes a run's best weights as a SavedModel with a model card.")
