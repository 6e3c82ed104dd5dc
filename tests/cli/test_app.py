"""How programs end: the status, and one line on standard error."""

import contextlib
import sys

import pytest
import tensorflow as tf
from absl import flags as absl_flags

from tfode_adv.cli import app, flags
from tfode_adv.errors import RunError, UsageError


@pytest.fixture
def values():
    values = flags.new("Does nothing.")
    flags.define_data_flags(values)
    flags.define_model_flags(values)
    flags.define_solver_flags(values, several=True)
    flags.define_attack_flags(values, several=True)
    return values


def _call(values, *arguments, main=lambda argv: None, **options):
    return app.call(main, values, ["/somewhere/bin/program", *arguments], **options)


def test_flags_reach_the_program(values):
    seen = {}
    status = _call(
        values,
        "--tol=1e-3,1",
        "--eps=0.1",
        "--attack=pgd,spsa",
        main=lambda argv: seen.update(flags.as_dict(values)),
    )
    assert status == 0
    assert seen["tol"] == [1e-3, 1.0] and seen["eps"] == [0.1] and seen["attack"] == ["pgd", "spsa"]
    assert seen["batch_size"] == 128 and "help" not in seen


def test_a_second_call_starts_from_the_defaults(values):
    _call(values, "--tol=1")
    _call(values)
    assert values.tol == [1e-3]


def test_a_flag_file_is_read(values, tmp_path):
    (tmp_path / "preset.cfg").write_text("# a comment\n--model=sonet\n--tol=0.1\n")
    assert _call(values, f"--flagfile={tmp_path / 'preset.cfg'}", "--tol=0.5") == 0
    assert values.model == "sonet" and values.tol == [0.5]


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--tol=0", ["tol", "greater than 0"]),
        ("--tol=1e-3,nan", ["tol", "nan"]),
        ("--tol=fine", ["tol", "fine"]),
        ("--eps=-0.1", ["eps", "-0.1", "at least 0"]),
        ("--step_size=0", ["step_size", "greater than 0"]),
        ("--step_size=1,2", ["step_size", "one number"]),
        ("--norm=l3", ["norm", "l3", "linf, l2, l2rms"]),
        ("--gradient=exact", ["gradient", "backprop, backprop_steps, adjoint"]),
        ("--batch_size=0", ["batch_size", "positive"]),
        ("--toll=1", ["toll"]),
        ("--steps=2147483648", ["steps", "32 bits", "2147483647"]),
        ("--batch_size=99999999999999999999", ["batch_size", "32 bits"]),
        ("--step_size=1e39", ["step_size", "1e+39", "float32"]),
        ("--eps=0.1,1e39", ["eps", "1e+39", "float32"]),
        ("--tol=1e-50", ["tol", "1e-50", "float32"]),
        ("--data_dir=", ["--data_dir is empty"]),
        ("--eps=" + "1," * 50_000, ["eps", "[…]"]),
        ("--flagfile=/nowhere/preset.cfg", ["/nowhere/preset.cfg"]),
        ("stray", ["stray"]),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(values, argument, words, capsys):
    assert _call(values, argument) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("program: ") and captured.err.count("\n") == 1
    assert len(captured.err) < 1000
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize(
    "error, status",
    [
        (UsageError("eps is -1"), 2),
        (RunError("config.json is\ncorrupt"), 1),
        (PermissionError(13, "Permission denied", "/runs/x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_its_status(values, error, status, capsys):
    def main(argv):
        raise error

    assert _call(values, main=main) == status
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    if isinstance(error, OSError):
        assert "/runs/x" in line and "Permission denied" in line


@pytest.mark.parametrize(
    "message, line",
    [
        ("{{function_node __wrapped__Mul}} out of memory [Op:Mul]", "out of memory"),
        (
            "Graph execution error:\n\nDetected at node a defined at (most recent call last):\n"
            "<stack traces unavailable>\nout of memory\n\t [[{{node a}}]] [Op:__inference_call_1]",
            "out of memory",
        ),
        ("Graph execution error:\n\nDetected at node a\nassertion failed: [too few steps] [3]", "too few steps 3"),
    ],
)
def test_tensorflow_s_errors_are_one_line(values, message, line, capsys):
    def main(argv):
        raise tf.errors.ResourceExhaustedError(None, None, message)

    assert _call(values, main=main) == 1
    assert capsys.readouterr().err == f"program: TensorFlow stopped: {line}\n"


def test_a_fault_of_ours_is_not_dressed_up(values):
    def main(argv):
        raise KeyError("ours")

    with pytest.raises(KeyError):
        _call(values, main=main)


def test_help_goes_to_standard_output(values, capsys):
    assert _call(values, "--help", main=lambda argv: pytest.fail("ran")) == 0
    out = capsys.readouterr().out
    assert out.startswith("Does nothing.") and "--tol" in out
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[1:] == ["This program's:", "Data:", "Model:", "ODE solver:", "Attack:", "Flags in a file:"]
    assert out.index("Attack:") < out.index("--eps") and "tfode_adv" not in out


def test_a_program_may_take_arguments_that_are_no_flags(values):
    seen = []
    assert _call(values, "runs/a", "--tol=1", "runs/b", main=seen.extend, positional=True) == 0
    assert seen[1:] == ["runs/a", "runs/b"]


def test_programs_can_share_a_process():
    for default in (1, 2):
        values = flags.new("")
        absl_flags.DEFINE_integer("epochs", default, "How many.", flag_values=values)
        assert _call(values) == 0 and values.epochs == default


def test_a_flag_file_that_is_no_text_is_one_line(values, tmp_path, capsys):
    (tmp_path / "preset.cfg").write_bytes(b"--model=\xff\n")
    assert _call(values, f"--flagfile={tmp_path / 'preset.cfg'}") == 2
    error = capsys.readouterr().err
    assert "flag file" in error and "UTF-8" in error and error.count("\n") == 1


@pytest.mark.parametrize("output, status", [("/dev/full", 1), (None, 0)])
def test_output_that_has_nowhere_to_go_is_no_traceback(values, monkeypatch, capsys, output, status):
    monkeypatch.setattr(sys, "argv", ["program"])
    # None is what Python has for a standard output that was closed; one that is open it closes at its end.
    with open(output, "w") if output else contextlib.nullcontext() as stream, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", stream)
        app.run(lambda rest: print("x" * 99), values)
    assert ended.value.code == status
    error = capsys.readouterr().err
    assert error == ("program: cannot write the output: No space left on device\n" if status else "")


@pytest.mark.parametrize("error", [UsageError, RunError])
def test_what_is_said_of_a_long_value_is_short(error):
    text = str(error(f"name is {'x' * 100_000!r}, but must be one of: a, b"))
    assert text.startswith("name is 'xxx") and text.endswith("one of: a, b") and len(text) < 1000


@pytest.mark.parametrize("value", [10**400, None, [0.1, None]])
def test_what_a_file_has_for_a_number_is_checked_as_what_is_typed(values, value):
    with pytest.raises(ValueError, match="is not a number"):
        values["tol"].parser.parse(value)
