"""python -m tf_ldiaf.train: trains a model and keeps the run in a folder."""

import contextlib

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.config import Config
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.flags import define_settings, given_settings
from tf_ldiaf.paths import shown
from tf_ldiaf.results.run_folder import RunFolder

FLAGS = flags.FlagValues()
flags.DEFINE_string("run_dir", "", "The run's folder (default: runs/METHOD-DATA-TIME).", FLAGS)
flags.DEFINE_bool("resume", False, "Continue the run in --run_dir, with its settings.", FLAGS)
flags.DEFINE_bool("overwrite", False, "Replace the run in --run_dir.", FLAGS)
define_settings(FLAGS)


def main() -> None:
    """Trains as the flags say."""
    given = given_settings(FLAGS)
    if FLAGS.resume:
        cli.required(FLAGS, "run_dir")
        if FLAGS.overwrite:
            raise ConfigError("--resume and --overwrite must not be given together. Received: both.")
        folder = RunFolder(FLAGS.run_dir)
        config = folder.read_config().changed(given)
    else:
        config = Config.from_json(given)
        if config.distribute == "multi_worker":
            cli.required(FLAGS, "run_dir")  # one name for all
        folder = RunFolder(FLAGS.run_dir) if FLAGS.run_dir else None
        if folder is not None:
            folder.check_new(FLAGS.overwrite)

    with cli.quiet_tensorflow() as request:
        from tf_ldiaf import data
        from tf_ldiaf.execution import strategy as distribution
        from tf_ldiaf.training import phases as training

        strategy = distribution.make_strategy(config.distribute, request.obey)
    is_chief = distribution.is_chief(strategy)
    if not FLAGS.resume:
        data.check_apart(config, folder.path if folder else RunFolder.OF_THEIR_OWN)
    folder = folder or RunFolder.of_its_own(config)
    with folder.locked() if is_chief else contextlib.nullcontext(), distribution.one_voice(strategy):
        if is_chief and not FLAGS.resume:
            folder.check_new(FLAGS.overwrite)  # again, for something may have been put there meanwhile
        images = data.load_training(config, config.seed)
        training.check(config, images, strategy)
        if is_chief and not FLAGS.resume:
            folder.create(config, images.checksums() | {"test": data.test_checksum(config)})
        print(f"{data.described(config, images)}\nRun folder: {folder.path}", flush=True)
        try:
            training.train(config, images, folder, strategy)
        except KeyboardInterrupt:
            print(f"\nTo continue: python -m tf_ldiaf.train --run_dir={shown(folder.path)} --resume")
            raise


if __name__ == "__main__":
    cli.run(main, "Trains a model: learns the latent graph, fixes it, and trains with it.", FLAGS)
