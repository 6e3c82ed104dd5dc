"""Bad input: one line that names it, status 2 for usage and 1 for a failed run, no traceback."""

import importlib

import pytest

from tfode_adv import data
from tfode_adv.cli import app
from tfode_adv.run_folder import Run

CONFIG = {"model": {"name": "oon", "kwargs": {}}, "dataset": {"name": "mnist_5k"}, "flags": {}, "seed": 0}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in, so that no run of ours is found."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_data(monkeypatch):
    """Reading images is a failure: what is wrong must be found before."""

    def read(*arguments, **options):
        pytest.fail("read the data first")

    for name in ("load", "arrays"):
        monkeypatch.setattr(data, name, read)
    for name in ("pipeline._read", "mnist_5k.prepare"):
        monkeypatch.setattr(f"tfode_adv.data.{name}", read)


@pytest.fixture
def call(capsys):
    def call(name, *arguments):
        program = importlib.import_module(f"tfode_adv.cli.{name}")
        positional = name in ("report", "diagnose", "convert")
        status = app.call(program.main, program.FLAGS, [name, *map(str, arguments)], positional)
        printed, line = capsys.readouterr()
        assert not printed and line.count("\n") == 1 and line.startswith(f"{name}: "), printed + line
        return status, line

    return call


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--model=onn"], ["'onn'", "oon", "res", "sonet"]),
        (["train", "--dataset=mnits"], ["'mnits'", "mnist_5k", "cifar10"]),
        (["train", "--solver=dopri"], ["'dopri'", "dopri5", "tfp", "rk4"]),
        (["train", "--model=res", "--solver=dopri"], ["'dopri'", "dopri5"]),
        (["train", "--num_steps=8"], ["num_steps is 8", "dopri5 chooses"]),
        (["train", "--seed=4294967295"], ["seed", "4294967294"]),
        (["train", "--gradient=exact"], ["exact", "backprop", "adjoint"]),
        (["train", "--augment=blur"], ["blur", "crop+flip+jitter"]),
        (["train", "--filters=33"], ["filters", "33"]),
        (["train", "--filters=0"], ["filters", "0"]),
        (["train", "--tol=0"], ["tol", "greater than 0"]),
        (["train", "--validation=1"], ["validation", "1"]),
        (["train", "--learning_rate=-1"], ["learning_rate", "-1"]),
        (["train", "--schedule=linear"], ["linear", "plateau", "cosine"]),
        (["train", "--schedule=cosine", "--factor=0.5"], ["factor is 0.5", "'cosine'"]),
        (["train", "--milestones=3"], ["milestones is", "'plateau'"]),
        (["train", "--run_dir="], ["--run_dir is empty"]),
        (["train", "--blocks=99999999999999999999"], ["blocks", "32 bits"]),
        (["evaluate", "--attack=none", "--eps=0.1"], ["eps is 0.1", "attack none"]),
        (["train", "--loss=hinge"], ["hinge", "madry", "trades"]),
        (["train", "--mixed_precision=int8"], ["int8", "bfloat16"]),
        (["train", "--distribute=moon"], ["moon", "mirrored"]),
        (["train", "--on_nan=hope"], ["hope", "stop", "skip"]),
        (["train", "--normalization=some"], ["'some'", "data"]),
        (["evaluate", "--attack=pdg"], ["'pdg'", "pgd", "spsa", "cw"]),
        (["evaluate", "--gradient=exact"], ["exact", "backprop", "adjoint"]),
        (["evaluate", "--split=dev"], ["dev", "validation"]),
        (["evaluate", "--norm=l3"], ["l3", "linf", "l2rms"]),
        (["evaluate", "--eps=-0.1"], ["eps", "at least 0"]),
        (["evaluate", "--tol=-1"], ["tol", "greater than 0"]),
        (["evaluate", "--solver=dopri"], ["'dopri'", "dopri5"]),
        (["evaluate", "--step_size=0"], ["step_size", "greater than 0"]),
        (["evaluate", "--steps=0"], ["steps", "positive"]),
        (["report"], ["run folder"]),
        (["diagnose", "--tol=x"], ["tol", "x"]),
        (["diagnose", "--budget=huge"], ["huge", "quick", "full"]),
        (["reproduce", "--dataset=svhn"], ["svhn", "mnist", "cifar10"]),
        (["reproduce", "--paper=nips1999"], ["nips1999", "wifs2019", "msml2022"]),
        (["tune", "--filter_choices=16,32", "--dataset=mnits"], ["'mnits'", "mnist_5k"]),
        (["tune", "--method=grid"], ["grid", "bayesian", "hyperband"]),
        (["tune", "--objective=fame"], ["fame", "robust"]),
        (["tune", "--solver_choices=rk4,dopri"], ["'dopri'", "dopri5", "bosh3"]),
        (["tune", "--solver_choices=bosh3", "--num_steps=8"], ["num_steps is 8", "bosh3 chooses"]),
        (["tune", "--filter_choices=16,0"], ["filters", "0"]),
        (["convert"], ["--model"]),
        (["convert", "--model=onn", "--from=a.npz", "--run_dir=b"], ["'onn'", "oon", "sonet"]),
        (["convert", "--model=oon", "--solver=dopri", "--from=a.npz", "--run_dir=b"], ["'dopri'", "dopri5"]),
        (["demo", "--epochs=0"], ["epochs", "positive"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_named_with_the_choices(call, no_data, elsewhere, arguments, words):
    Run.create(elsewhere / "runs" / "a", CONFIG).model_path.write_text("never read")
    status, line = call(*arguments)
    assert status == 2
    for word in words:
        assert word in line
    assert [path.name for path in (elsewhere / "runs").iterdir()] == ["a"]


@pytest.mark.parametrize("program", ["evaluate", "diagnose"])
def test_a_data_set_that_does_not_exist_is_one_line(call, elsewhere, program):
    Run.create(elsewhere / "runs" / "a", CONFIG).model_path.write_text("never read")
    status, line = call(program, "--dataset=mnits")
    assert status == 2 and "'mnits'" in line and "mnist_5k" in line


@pytest.mark.parametrize("program", ["evaluate", "diagnose", "report"])
@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda run: None, "config.json"),
        (lambda run: (run / "config.json").write_text("{"), "config.json"),
        (lambda run: (run / "config.json").write_text('"text"'), "config.json"),
    ],
    ids=["no run", "corrupt", "not a run's"],
)
def test_a_run_folder_that_will_not_do_is_named(call, no_data, elsewhere, program, damage, words):
    run = elsewhere / "a"
    run.mkdir()
    damage(run)
    status, line = call(program, f"--run={run}" if program == "evaluate" else run)
    assert status == 1 and str(run) in line and words in line


@pytest.mark.parametrize("program", ["evaluate", "diagnose"])
@pytest.mark.parametrize("content", [None, "not a model"])
def test_a_run_without_a_finished_model_is_named(call, no_data, elsewhere, program, content):
    run = Run.create(elsewhere / "a", CONFIG)
    if content is not None:
        run.model_path.write_text(content)
    status, line = call(program, f"--run={run.path}" if program == "evaluate" else run.path)
    assert status == 1 and "model.keras" in line


def test_evaluate_without_any_run_says_where_it_looked(call):
    status, line = call("evaluate", "--attack=spsa", "--tol=1.0")
    assert status == 1 and "'runs'" in line


@pytest.mark.parametrize("arguments", [[], ["--resume"]])
def test_training_refuses_a_folder_that_is_in_use(call, elsewhere, arguments):
    (elsewhere / "thesis").mkdir()
    (elsewhere / "thesis" / "thesis.tex").write_text("precious")
    status, line = call("train", f"--run_dir={elsewhere / 'thesis'}", *arguments)
    assert status == 1 and "thesis" in line
    assert (elsewhere / "thesis" / "thesis.tex").read_text() == "precious"


def test_training_into_a_folder_that_cannot_be_written_names_it(call, elsewhere):
    (elsewhere / "file").write_text("")
    status, line = call("train", f"--run_dir={elsewhere / 'file' / 'run'}")
    assert status == 1 and str(elsewhere / "file") in line


def test_a_data_set_that_is_not_prepared_is_one_line(call, elsewhere):
    status, line = call("train", "--dataset=cifar100", f"--data_dir={elsewhere}", "--nodownload")
    assert status == 1 and "cifar100" in line and "--download" in line and "--data_dir" in line
