"""python -m tf_ldiaf.evaluate: test ELBO and log-likelihood of a run, with standard errors."""

import json
import time

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.results.run_folder import RunFolder, write_atomically

flags.DEFINE_string("run_dir", "", "The folder of a trained run.")
flags.DEFINE_integer(
    "num_importance_samples",
    100,
    "S, draws per image of the importance-weighted bound.",
    lower_bound=1,
    upper_bound=10**9,
)
flags.DEFINE_integer("batch_size", 100, "Images at a time.", lower_bound=1, upper_bound=10**6)
flags.DEFINE_integer("seed", 0, "Seed of the draws.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_enum("distribute", "none", ("none", "mirrored", "multi_worker"), "As in training.")
flags.DEFINE_string("data_dir", "", "Where TFDS keeps its data sets (default: as in the run).")


def main() -> None:
    """Evaluates the run's best weights on its test images."""
    cli.required("run_dir")
    folder = RunFolder(flags.FLAGS.run_dir)
    folder.read_config()  # a folder that is not a run is refused before TensorFlow is imported
    with cli.quiet_tensorflow() as request:
        from tf_ldiaf.execution import strategy as distribution
        from tf_ldiaf.results import evaluation, report

        strategy = distribution.make_strategy(flags.FLAGS.distribute, request.obey)
    started = time.monotonic()
    with distribution.one_voice(strategy):
        metrics = evaluation.evaluate(
            folder,
            num_importance_samples=flags.FLAGS.num_importance_samples,
            batch_size=flags.FLAGS.batch_size,
            seed=flags.FLAGS.seed,
            data_dir=flags.FLAGS.data_dir,
            strategy=strategy,
        )
        print(report.metrics_table(metrics))
        if distribution.is_chief(strategy):
            write_atomically(folder.metrics_file, json.dumps(metrics, indent=2))
        print(f"{time.monotonic() - started:.0f} seconds; numbers in {folder.metrics_file}")


if __name__ == "__main__":
    cli.run(main, "Test ELBO and log-likelihood of a run's best weights, with standard errors over images.")
