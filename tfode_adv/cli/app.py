"""How every program starts and ends: flags parsed, one line for an error, an exit status.

A program is a module of this package:

    FLAGS = flags.new(__doc__)           # its own flags, so that programs can share a process
    flags.define_data_flags(FLAGS)

    def main(argv): ...                  # raises UsageError and RunError; checks the flags, then app.start_tensorflow()

    def run():                           # what bin/NAME and the installed tfode-NAME call
        app.run(main, FLAGS)

A program imports what needs TensorFlow inside of `main`, below what its flags alone can be wrong in: help and a mistake
are there at once.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from tfode_adv import startup
from tfode_adv.cli import flags as flags_
from tfode_adv.errors import RunError, UsageError, cut, failed_assertion

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def call(main: Callable, flag_values: flags.FlagValues, argv: Sequence[str], positional: bool = False) -> int:
    """Parses `argv` into `flag_values`, calls `main(rest)` and returns the exit status.

    The status is 0; 2 for the caller's mistake (a bad flag, `UsageError`); 1 for a run that failed
    (`RunError`, a file that cannot be read or written, TensorFlow's own). For 1 and 2, one line on standard error.

    Args:
        main: called with the program's name and the arguments that are no flags.
        flag_values: the program's own flags, from `cli.flags.new`.
        argv: the command line, the program's name first.
        positional: whether `main` takes arguments that are no flags.
    """
    program = pathlib.Path(argv[0]).name
    try:
        flag_values.unparse_flags()
        try:
            rest = flag_values(list(argv))
        except UnicodeDecodeError as error:
            raise UsageError(f"a flag file is no text in UTF-8: {error}") from error
        if flag_values.help:
            print(f"{flag_values.doc}\n\nFlags of {program}:\n{flags_.help_text(flag_values)}", flush=True)
            return OK
        for name in flag_values:
            # An empty variable of a shell, never a choice.
            if flag_values[name].present and flag_values[name].value == "":
                raise UsageError(f"--{name} is empty")
        if len(rest) > 1 and not positional:
            raise UsageError(f"unexpected argument {rest[1]!r}; --help lists the flags")
        main(rest)
        if sys.stdout:
            sys.stdout.flush()
    except (UsageError, flags.Error) as error:
        return _fail(program, error, USAGE)
    except RunError as error:
        return _fail(program, error, FAILED)
    except BrokenPipeError:
        # The reader left (`| head`); what Python still wants to flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno is None:
            raise
        # What has no name is written to a stream that was open.
        named = "cannot write the output" if error.filename is None else repr(error.filename)
        return _fail(program, f"{named}: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return _fail(program, "interrupted", INTERRUPTED)
    except Exception as error:
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
            raise
        return _fail(program, f"TensorFlow stopped: {_op_error(error.message)}", FAILED)
    return OK


class _Process:
    """This process: the program's own, or one in which it is called, which keeps TensorFlow's settings."""

    own = False


_process = _Process()


def start_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds, and lets it look for GPUs, without its notes.

    A process of the program's own imports no more than it needs (`startup.short`). On a CPU its graphs are run as they
    are: what TensorFlow's optimiser makes of a solve is no faster, and takes it a fifth of a command's start to find
    (results/benchmarks/start.md).
    """
    with startup.quiet(), startup.short() if _process.own else contextlib.nullcontext():
        # Before TensorFlow it leaves most of itself out. If it fails, it does so again where it counts.
        with contextlib.suppress(Exception):
            import tensorflow_probability  # noqa: F401
        import tensorflow as tf

        # A build for GPUs complains of their absence when it first looks.
        tf.config.list_physical_devices()
        if _process.own and not tf.config.list_physical_devices("GPU"):
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def run(main: Callable, flag_values: flags.FlagValues, positional: bool = False) -> None:
    """Runs a program on the process's own command line and exits."""
    _process.own = True
    status = call(main, flag_values, sys.argv, positional)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        # It was told of; Python would flush once more, and say so again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _op_error(message: str) -> str:
    """The line of an operation's error that says what is wrong."""
    if "assertion failed" in message:
        return failed_assertion(message)
    lines = [line for line in message.split("\n") if line.strip()] or [""]
    # A graph's error tells first where the operation was defined; what it says stands before the operation's name.
    named = next((number for number, line in enumerate(lines) if "[[{{node" in line), 1)
    return failed_assertion(lines[max(named - 1, 0)])


def _fail(program: str, error: Exception | str, status: int) -> int:
    print(f"{program}: {cut(' '.join(str(error).split()))}", file=sys.stderr)
    return status
