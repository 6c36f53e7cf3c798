"""python -m tf_ldiaf.evaluate: test ELBO and log-likelihood of a run, with standard errors."""

import json
import time

from absl import flags

from tf_ldiaf import cli
from tf_ldiaf.results.files import write_atomically
from tf_ldiaf.results.run_folder import RunFolder

FLAGS = flags.FlagValues()
flags.DEFINE_string("run_dir", "", "The folder of a trained run.", FLAGS)
flags.DEFINE_integer(
    "num_importance_samples", 100, "S, draws per image of the importance-weighted bound.", 1, 10**9, FLAGS
)
flags.DEFINE_integer("batch_size", 100, "Images at a time.", 1, 10**6, FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of the draws.", 0, 2**31 - 1, FLAGS)
flags.DEFINE_enum("distribute", "none", ("none", "mirrored", "multi_worker"), "As in training.", FLAGS)
flags.DEFINE_bool(
    "edge_worth", False, "Measure what each edge is worth, by as many short trainings as there are.", FLAGS
)
flags.DEFINE_string("dataset", "", "Where the images are now, if they were moved (default: as in the run).", FLAGS)
flags.DEFINE_string("data_dir", "", "Where TFDS keeps its data sets (default: as in the run).", FLAGS)


def main() -> None:
    """Evaluates the run's best weights on its test images."""
    cli.required(FLAGS, "run_dir")
    folder = RunFolder(FLAGS.run_dir)
    folder.read_config()  # a folder that is not a run is refused before TensorFlow is imported
    with cli.quiet_tensorflow() as request:
        from tf_ldiaf.execution import strategy as distribution
        from tf_ldiaf.results import evaluation, report

        strategy = distribution.make_strategy(FLAGS.distribute, request.obey)
    started = time.monotonic()
    with distribution.one_voice(strategy):
        is_kept = folder.can_be_written
        if not is_kept:
            print(f"Warning: {folder.path} cannot be written; the numbers are only printed.", flush=True)
        metrics = evaluation.evaluate(
            folder,
            num_importance_samples=FLAGS.num_importance_samples,
            batch_size=FLAGS.batch_size,
            seed=FLAGS.seed,
            dataset=FLAGS.dataset,
            data_dir=FLAGS.data_dir,
            strategy=strategy,
            edge_worth=FLAGS.edge_worth,
        )
        print(report.metrics_table(metrics))
        if warning := report.too_few_samples(metrics):
            print(warning)
        if is_kept and distribution.is_chief(strategy):
            metrics = evaluation.with_worth(metrics, folder)
            write_atomically(folder.metrics_file, json.dumps(metrics, indent=2, allow_nan=False))
        where = f"; numbers in {folder.metrics_file}" if is_kept else ""
        print(f"{time.monotonic() - started:.0f} seconds{where}")


if __name__ == "__main__":
    cli.run(main, "Test ELBO and log-likelihood of a run's best weights, with standard errors over images.", FLAGS)
