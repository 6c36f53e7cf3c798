"""How every command starts and ends: flags, one-sentence errors, a quiet TensorFlow."""

import codecs
import contextlib
import os
import pathlib
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator

from absl import flags

from tf_ldiaf.errors import ConfigError, FileError, LDIAFError
from tf_ldiaf.execution import compiled_programs, stopping
from tf_ldiaf.paths import as_path

# What TensorFlow says of itself on a machine where all is well.
_CHATTER = re.compile(
    r"All log messages before absl::InitializeLog|oneDNN custom operations|This TensorFlow binary is optimized"
    r"|To enable the following instructions|Could not find cuda drivers|TF-TRT Warning"
    r"|Unable to register cu\w+ factory|computation_placer|AVX|^\s*$"
)
# A machine without a GPU says this too; on one with a GPU it is a real error.
_NO_GPU = re.compile(r"failed call to cuInit|CUDA error|kernel driver does not appear to be running|cuda_diagnostics")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LONGEST_SENTENCE = 800
_NO_OUTPUT = "The output must take what is printed. Received: one that is closed or full."


def run(main: Callable[..., None], description: str, flag_values: flags.FlagValues, others: bool = False) -> None:
    """Parses the command line, then runs `main`.

    A flag or input that cannot be used ends the process with one sentence on stderr and code 2,
    Ctrl-C with code 130, SIGTERM with 143, an output that takes no more with code 1.

    Args:
        main: the command; it reads `flag_values`.
        description: the help's first lines.
        others: whether arguments that are not flags are allowed. They are passed to `main`.
        flag_values: the command's flags. They are its own, so that a notebook may run several commands, and one twice.
    """
    command = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    arguments = _flagfiles_first(sys.argv[1:])
    sentence, code = "", 0
    try:
        stopping.raised_at_once()
        if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(arguments):
            print(f"{description}\n{_help(flag_values)}")
        else:
            rest = _parse(command, arguments, flag_values)
            if rest and not others:
                raise ConfigError(f"Arguments must be flags, --name=value. Received: {' '.join(rest)}.")
            main(*rest)
    except flags.Error as error:
        sentence, code = " ".join(str(error).removeprefix("ERROR:: ").split()), 2
    except LDIAFError as error:
        sentence, code = error.for_command(), 2
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, stopping.Stopped) else signal.SIGINT
        sentence, code = "interrupted." if number == signal.SIGINT else "terminated.", 128 + number
    except OSError:
        if _takes("\n"):
            raise
        sentence, code = _NO_OUTPUT, 1
    if not _takes("") and not code:
        sentence, code = _NO_OUTPUT, 1
    if len(sentence) > _LONGEST_SENTENCE:  # someone gave a book for a number
        sentence = f"{sentence[: _LONGEST_SENTENCE // 2]} ... {sentence[-_LONGEST_SENTENCE // 2 :]}"
    if code:
        start = "\n" if code > 128 else ""  # after the terminal's ^C
        print(f"{start}{command}: {sentence}", file=sys.stderr)
        sys.exit(code)


def _takes(text):
    """Whether the output takes this text and what was printed before."""
    try:
        print(text, end="", flush=True)
        return True
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be printed goes nowhere
        return False


def required(flag_values: flags.FlagValues, *names: str) -> None:
    """Makes flags without a default obligatory.

    Raises:
        ConfigError: one of them is missing.
    """
    for name in names:
        if not flag_values[name].value:
            raise ConfigError(f"--{name} must be given. Received: nothing.")


def check_output(flag_values: flags.FlagValues, name: str, suffixes: tuple[str, ...]) -> None:
    """Says if a flag that names an output file, if it is given, cannot name one.

    Raises:
        ConfigError: another suffix, or no such folder.
    """
    value = flag_values[name].value
    if value and pathlib.Path(value).suffix not in suffixes:
        raise ConfigError(f"--{name} must end in {' or '.join(suffixes)}. Received: {value}.")
    if value and not as_path(value, name).absolute().parent.is_dir():
        raise ConfigError(f"--{name} must be in a folder that exists. Received: {value}.")


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[stopping.Request]:
    """While TensorFlow is imported and finds its devices: its chatter is dropped, all else is passed on.

    Ctrl-C and SIGTERM wait for the block's end, or for when the request that it gives is obeyed.
    Later, without a GPU, its C++ parts are silent: what goes wrong in them comes as an exception too.
    """
    has_gpu = any(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    # XLA calls it an error that a kept program is not text, and that it names features which processors do not list.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_gpu else "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Convolutions are faster with it. On older processors TensorFlow leaves it off.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    compiled_programs.keep()
    with _temporary_file() as caught:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            with stopping.deferred() as request:  # half initialised, TensorFlow would make another error of Ctrl-C
                yield request
                import tensorflow as tf

                found = tf.config.list_logical_devices("GPU")
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not _CHATTER.search(line) and (has_gpu or not _NO_GPU.search(line)):
                    print(line, file=sys.stderr)
    if has_gpu and not found and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        print("Warning: TensorFlow does not see this machine's GPU, and computes on the CPU.", file=sys.stderr)


def _temporary_file():
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise FileError(f"TMPDIR must name a folder that can be written. Received: {error.strerror}.") from None


def _parse(command, arguments, flag_values):
    if {"--flagfile=", "-flagfile="} & set(arguments):
        raise ConfigError("--flagfile must be the name of a file. Received: nothing.")
    try:
        with contextlib.ExitStack() as places:
            rest = flag_values([command, *_without_marks(arguments, places)])[1:]
    except ValueError:  # not UTF-8, or a null byte in a name
        files = " ".join(argument for argument in arguments if "flagfile" in argument or not argument.startswith("-"))
        raise ConfigError(f"--flagfile must name a text file in UTF-8. Received: {files}.") from None
    for name, value in flag_values.flag_values_dict().items():
        if "\0" in str(value) or not _is_text(str(value)):
            raise ConfigError(f"--{name} must be text in UTF-8 without a null byte. Received: {value!r}.")
        if value == "" and flag_values[name].present and name != "edges":
            raise ConfigError(f"--{name} must not be empty. Received: nothing.")
    return rest


def _is_text(value):
    """Whether it can be written in a file: names in a folder may be any bytes."""
    return value == value.encode(errors="replace").decode()


def _without_marks(arguments, places):
    """The arguments, with a copy of each flagfile that begins with a byte-order mark, as Windows writes.

    The copies are in `places`, and leave with it.
    """
    found = list(arguments)
    for i, argument in enumerate(arguments):
        name = argument.partition("=")[2] if re.match("--?flagfile=", argument) else argument
        is_file = name != argument or (i and arguments[i - 1] in ("--flagfile", "-flagfile"))
        with contextlib.suppress(OSError, RuntimeError):
            content = pathlib.Path(name).expanduser().read_bytes() if is_file else b""
            encoding = next((known for mark, known in _MARKS.items() if content.startswith(mark)), None)
            if encoding:
                copy = pathlib.Path(places.enter_context(tempfile.TemporaryDirectory())) / "flags.cfg"
                copy.write_text(content.decode(encoding))
                found[i] = f"--flagfile={copy}" if name != argument else str(copy)
    return found


def _flagfiles_first(arguments):
    """The command line wins over a flagfile, wherever the flagfile stands."""
    files, others, i = [], [], 0
    while i < len(arguments):
        if arguments[i] in ("--flagfile", "-flagfile"):
            files += arguments[i : i + 2]
            i += 1
        elif re.match("--?flagfile=", arguments[i]):
            files.append(arguments[i])
        else:
            others.append(arguments[i])
        i += 1
    return files + others


def _help(flag_values):
    return (
        "\n".join(flag_values.module_help(name) for name in flag_values.flags_by_module_dict())
        + "\n  --flagfile: A file with flags, one a line; the command line wins over it.\n"
    )
