"""python -m tf_ldiaf.compare: several runs side by side."""

from absl import flags

from tf_ldiaf import cli, paths
from tf_ldiaf.errors import ConfigError, FileError
from tf_ldiaf.results.run_folder import RunFolder

FLAGS = flags.FlagValues()
FLAGS.set_gnu_getopt()  # flags may come after the runs
flags.DEFINE_string("out", "", "Picture of the validation ELBO of all runs by epoch, .png.", FLAGS)


def main(*runs: str) -> None:
    """Prints the table of the runs, and draws their curves if that is asked for."""
    if len(runs) < 2:
        raise ConfigError(f"Two runs or more must be given, as folders. Received: {' '.join(runs) or 'nothing'}.")
    cli.check_output(FLAGS, "out", (".png",))
    folders = [RunFolder(run) for run in runs]
    for folder in folders:
        if not folder.holds_run:
            raise ConfigError(f"RUN must be the folder of a run. Received: {folder.path}.")
        folder.read_config()  # what is wrong is said before TensorFlow is imported
    file = paths.as_path(FLAGS.out, "out") if FLAGS.out else None
    if file is not None:
        paths.check_free(file, "out")
        if RunFolder(file.absolute().parent).holds_run:
            raise ConfigError(f"--out must not lie in the folder of a run. Received: {FLAGS.out}.")
    with cli.quiet_tensorflow():
        from tf_ldiaf.results import comparison, pictures
    print(comparison.table(folders))
    if file is not None:
        try:
            file.write_bytes(pictures.as_png(pictures.draw_histories(comparison.histories(folders))))
        except OSError as error:
            raise FileError(f"`out` must be a file that can be written. Received: {file} ({error.strerror}).") from None
        print(f"Curves: {FLAGS.out}")


if __name__ == "__main__":
    cli.run(main, "What several runs differ in, and what came out of them: compare RUN RUN ...", FLAGS, others=True)
