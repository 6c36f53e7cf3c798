"""python -m tf_ldiaf.sample: pictures from a SavedModel."""

import pathlib

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.errors import ConfigError

flags.DEFINE_string("saved_model", "", "A folder that tf_ldiaf.export wrote.")
flags.DEFINE_integer("num", 64, "How many samples, or reconstructions at most.", lower_bound=1, upper_bound=10_000)
flags.DEFINE_integer("seed", 0, "The same seed gives the same picture.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_string("out", "", "Picture of the samples or reconstructions, .png; the arrays go beside it, .npz.")
flags.DEFINE_string("reconstruct", "", "An .npz file whose first array of images is reconstructed instead.")
flags.DEFINE_string("graph", "", "Picture (.png), DOT (.dot) or JSON (.json) of the latent graph.")


def main() -> None:
    """Writes what the flags ask for."""
    arguments = flags.FLAGS
    cli.required("saved_model")
    if not (pathlib.Path(arguments.saved_model) / "saved_model.pb").is_file():
        raise ConfigError(f"--saved_model must be a folder with a SavedModel. Received: {arguments.saved_model}.")
    if not (arguments.out or arguments.graph):
        raise ConfigError("--out or --graph must be given. Received: neither.")
    _check_output("out", (".png",))
    _check_output("graph", (".png", ".dot", ".json"))
    with cli.quiet_tensorflow():
        from tf_ldiaf.results import sampling
    if arguments.graph:
        sampling.write_graph(arguments.saved_model, arguments.graph)
        print(f"Latent graph: {arguments.graph}")
    if arguments.out:
        arrays = sampling.write_images(
            arguments.saved_model, arguments.out, arguments.num, arguments.seed, arguments.reconstruct
        )
        print(f"Picture: {arguments.out}\nArrays: {arrays}")


def _check_output(name, suffixes):
    value = flags.FLAGS[name].value
    if value and pathlib.Path(value).suffix not in suffixes:
        raise ConfigError(f"--{name} must end in {' or '.join(suffixes)}. Received: {value}.")
    if value and not pathlib.Path(value).absolute().parent.is_dir():
        raise ConfigError(f"--{name} must be in a folder that exists. Received: {value}.")


if __name__ == "__main__":
    cli.run(main, "Samples, reconstructions and the latent graph of a SavedModel.")
