"""python -m tf_ldiaf.train: trains a model and keeps the run in a folder."""

import contextlib
import dataclasses

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.config import Config
from tf_ldiaf.errors import ConfigError
from tf_ldiaf.flags import define_settings, given_settings
from tf_ldiaf.results.run_folder import RunFolder

flags.DEFINE_string("run_dir", "", "The run's folder (default: runs/METHOD-DATA-TIME).")
flags.DEFINE_bool("resume", False, "Continue the run in --run_dir, with its settings.")
flags.DEFINE_bool("overwrite", False, "Replace the run in --run_dir.")
define_settings()


def main() -> None:
    """Trains as the flags say."""
    arguments, given = flags.FLAGS, given_settings()
    if arguments.resume:
        cli.required("run_dir")
        if arguments.overwrite:
            raise ConfigError("--resume and --overwrite must not be given together. Received: both.")
        folder = RunFolder(arguments.run_dir)
        config = folder.read_config()
        config = dataclasses.replace(config, **{name: given[name] for name in given if name in Config.CHANGEABLE})
        for name, value in given.items():
            if value != getattr(config, name):
                ours, theirs = ("nothing" if text == "" else text for text in (getattr(config, name), value))
                raise ConfigError(f"--{name} must be {ours} as in the run to resume. Received: {theirs}.")
    else:
        config = Config.from_json(given)
        if config.distribute == "multi_worker":
            cli.required("run_dir")  # one name for all
        folder = RunFolder(arguments.run_dir or RunFolder.default_path(config))
        folder.check_new(arguments.overwrite)

    with cli.quiet_tensorflow() as request:
        from tf_ldiaf import data
        from tf_ldiaf.execution import strategy as distribution
        from tf_ldiaf.training import phases as training

        strategy = distribution.make_strategy(config.distribute, request.obey)
    is_chief = distribution.is_chief(strategy)
    with folder.locked() if is_chief else contextlib.nullcontext():
        images = data.load_training(config, config.seed)
        training.check(config, images, strategy)
        if is_chief and not arguments.resume:
            folder.create(config)
        with distribution.one_voice(strategy):
            print(f"Run folder: {folder.path}", flush=True)
            try:
                training.train(config, images, folder, strategy)
            except KeyboardInterrupt:
                print(f"\nTo continue: python -m tf_ldiaf.train --run_dir={folder.path} --resume")
                raise


if __name__ == "__main__":
    cli.run(main, "Trains a model: learns the latent graph, fixes it, and trains with it.")
