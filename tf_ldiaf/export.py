"""python -m tf_ldiaf.export: a SavedModel that needs nothing but TensorFlow."""

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.paths import shown
from tf_ldiaf.results.run_folder import RunFolder

FLAGS = flags.FlagValues()
flags.DEFINE_string("run_dir", "", "The folder of a trained run.", FLAGS)
flags.DEFINE_string("out", "", "Where the SavedModel goes (default: saved_models/NAME OF THE RUN).", FLAGS)
flags.DEFINE_bool("overwrite", False, "Replace the SavedModel in --out.", FLAGS)


def main() -> None:
    """Exports the run's best weights."""
    cli.required(FLAGS, "run_dir")
    folder = RunFolder(FLAGS.run_dir)
    folder.read_config()  # a folder that is not a run is refused before TensorFlow is imported
    out = FLAGS.out or f"saved_models/{folder.path.resolve().name}"
    with cli.quiet_tensorflow():
        from tf_ldiaf.results import saved_model
    saved_model.export(folder, out, FLAGS.overwrite)
    print(f"SavedModel: {out}\nNext: python -m tf_ldiaf.sample --saved_model={shown(out)} --num=64 --out=samples.png")


if __name__ == "__main__":
    cli.run(main, "Writes a run's best weights as a SavedModel with a model card.", FLAGS)
