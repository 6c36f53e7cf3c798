"""tf-ldiaf COMMAND, or python -m tf_ldiaf COMMAND: one of the commands, or which there are."""

import runpy
import sys

_COMMANDS = {
    "train": "trains a model: learns the latent graph, fixes it, and trains with it",
    "evaluate": "test ELBO and log-likelihood of a run, with standard errors",
    "compare": "several runs side by side",
    "export": "writes a run's best weights as a SavedModel",
    "sample": "samples, reconstructions and the latent graph of a SavedModel",
    "explore": "opens a page in the browser that shows what is in a SavedModel",
}


def main() -> None:
    """Runs the command that the command line begins with."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in _COMMANDS:
        sys.argv = [command, *arguments]
        runpy.run_module(f"tf_ldiaf.{command}", run_name="__main__")
    elif command in ("--help", "-h", "help"):
        print("The commands of tf_ldiaf, in the order in which one needs them. Each has --help.\n")
        for name, what in _COMMANDS.items():
            print(f"  python -m tf_ldiaf.{name:<10} {what}")
        print("\n`tf-ldiaf train` is the same as `python -m tf_ldiaf.train`, and so on.")
    else:
        print(f"tf_ldiaf: The command must be one of {', '.join(_COMMANDS)}. Received: {command}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
