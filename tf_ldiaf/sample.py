"""python -m tf_ldiaf.sample: pictures from a SavedModel."""

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.data_settings import range_of
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.paths import as_path

FLAGS = flags.FlagValues()
flags.DEFINE_string("saved_model", "", "A folder that tf_ldiaf.export wrote.", FLAGS)
flags.DEFINE_integer("num", 64, "How many samples, or reconstructions at most.", 1, 10_000, FLAGS)
flags.DEFINE_integer("seed", 0, "The same seed gives the same picture.", 0, 2**31 - 1, FLAGS)
flags.DEFINE_string("out", "", "Picture of the samples or reconstructions, .png; the arrays go beside it, .npz.", FLAGS)
flags.DEFINE_string(
    "reconstruct",
    "",
    "Images to reconstruct instead: an .npz file, whose first array is taken, a picture, or a folder.",
    FLAGS,
)
flags.DEFINE_string("value_range", "", "BLACK,WHITE: as in training, if it was given there.", FLAGS)
flags.DEFINE_string("graph", "", "Picture (.png), DOT (.dot) or JSON (.json) of the latent graph.", FLAGS)


def main() -> None:
    """Writes what the flags ask for."""
    cli.required(FLAGS, "saved_model")
    if not (as_path(FLAGS.saved_model, "saved_model") / "saved_model.pb").is_file():
        raise ConfigError(f"--saved_model must be a folder with a SavedModel. Received: {FLAGS.saved_model}.")
    if not (FLAGS.out or FLAGS.graph):
        raise ConfigError("--out or --graph must be given. Received: neither.")
    if FLAGS.out and FLAGS.graph and as_path(FLAGS.out, "out").resolve() == as_path(FLAGS.graph, "graph").resolve():
        raise ConfigError(f"--out and --graph must be different files. Received: {FLAGS.out} for both.")
    cli.check_output(FLAGS, "out", (".png",))
    cli.check_output(FLAGS, "graph", (".png", ".dot", ".json"))
    values_from_to = range_of(FLAGS.value_range)
    with cli.quiet_tensorflow():
        from tf_ldiaf.results import sampling
    if FLAGS.graph:
        sampling.write_graph(FLAGS.saved_model, FLAGS.graph)
        print(f"Latent graph: {FLAGS.graph}")
    if FLAGS.out:
        what = FLAGS.num, FLAGS.seed, FLAGS.reconstruct, values_from_to
        arrays = sampling.write_images(FLAGS.saved_model, FLAGS.out, *what)
        print(f"Picture: {FLAGS.out}\nArrays: {arrays}")


if __name__ == "__main__":
    cli.run(main, "Samples, reconstructions and the latent graph of a SavedModel.", FLAGS)
