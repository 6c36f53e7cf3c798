"""python -m tf_ldiaf.explore: a page on which one looks into a SavedModel."""

import importlib.util

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.data_settings import range_of
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.explorer import MISSING
from tf_ldiaf.paths import as_path

FLAGS = flags.FlagValues()
flags.DEFINE_string("saved_model", "", "A folder that tf_ldiaf.export wrote.", FLAGS)
flags.DEFINE_string(
    "images",
    "",
    "Images of which the first 24 are to pick from: an .npz file, a picture, or a folder (default: samples).",
    FLAGS,
)
flags.DEFINE_string("value_range", "", "BLACK,WHITE: as in training, if it was given there.", FLAGS)
flags.DEFINE_integer("port", 0, "The port of this machine that the page is at (0: any that is free).", 0, 65535, FLAGS)
flags.DEFINE_bool("browser", True, "Open the page in the browser.", FLAGS)
flags.DEFINE_string(
    "static", "", "Write the page with the model inside to this folder instead; the page then needs no server.", FLAGS
)


def main() -> None:
    """Starts the page, or writes it."""
    cli.required(FLAGS, "saved_model")
    if not (as_path(FLAGS.saved_model, "saved_model") / "saved_model.pb").is_file():
        raise ConfigError(f"--saved_model must be a folder with a SavedModel. Received: {FLAGS.saved_model}.")
    for package in ("starlette", "uvicorn") if not FLAGS.static else ():
        if importlib.util.find_spec(package) is None:  # before TensorFlow is imported
            raise ConfigError(MISSING.format(package))
    values_from_to = range_of(FLAGS.value_range)
    with cli.quiet_tensorflow():
        from tf_ldiaf.explorer.answers import Explorer
    explorer = Explorer(FLAGS.saved_model, FLAGS.images or None, values_from_to)
    if FLAGS.static:
        from tf_ldiaf.explorer import static

        static.write(explorer, FLAGS.static)
        print(f"Page: {as_path(FLAGS.static, 'static') / 'index.html'}")
    else:
        from tf_ldiaf.explorer import server

        server.serve(explorer, FLAGS.port, FLAGS.browser)


if __name__ == "__main__":
    cli.run(main, "Opens a page in the browser that shows what is in a SavedModel.", FLAGS)
