"""bin/evaluate, bin/report and bin/reproduce on small models: what they print, write, refuse and resume."""

import contextlib
import dataclasses
import json
import types

import keras
import numpy as np
import pytest
from PIL import Image

import tfode_adv as ta
from tfode_adv.cli import app, evaluate, report, reproduce, workers
from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation import grid, subject
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import cells
from tfode_adv.evaluation.subject import make_attack
from tfode_adv.run_folder import Run

IMAGES = 24


def call(program, *arguments):
    """The program's exit status."""
    positional = program is report
    return app.call(program.main, program.FLAGS, [program.__name__, *map(str, arguments)], positional)


def attack_cells(run):
    return [cell for cell in cells(run.path) if cell.configuration.attack != "none"]


def make_run(folder, model, name):
    config = {"model": {"name": name}, "dataset": {"name": "mnist_5k"}, "flags": {}, "seed": 0}
    run = Run.create(folder, config)
    model.save(run.model_path)
    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A linear classifier, trained a little: no ODE blocks."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = ta.data.arrays("mnist_5k", "train", 1000)
    model.fit(images, labels, batch_size=32, epochs=3, verbose=0)
    return make_run(tmp_path_factory.mktemp("plain") / "linear", model, "linear")


@pytest.fixture(scope="module")
def ode(tmp_path_factory):
    """A narrow OON as it was initialised."""
    keras.utils.set_random_seed(0)
    model = ta.models.build("oon", (28, 28, 1), 10, filters=2, tol=0.1, solver="bosh3")
    return make_run(tmp_path_factory.mktemp("ode") / "oon", model, "oon")


def test_a_grid_is_evaluated_once(plain, capsys, monkeypatch):
    asked = [f"--run={plain.path}", f"--num_examples={IMAGES}", "--eps=0,0.1,0.3", "--norm=linf,l2rms"]
    assert call(evaluate, *asked) == 0
    printed = capsys.readouterr().out
    assert "attack success" in printed and "robust accuracy" in printed
    found = {(c.configuration.norm, c.configuration.eps): c.records() for c in attack_cells(plain)}
    assert set(found) == {(norm, eps) for norm in ("linf", "l2rms") for eps in (0.0, 0.1, 0.3)}
    assert all(list(records) == list(range(IMAGES)) for records in found.values())
    turned = {key: sum(r.success for r in records.values()) for key, records in found.items()}
    correct = sum(record.correct for record in found["linf", 0.1].values())
    assert correct > IMAGES / 2
    assert turned["linf", 0.0] == 0 and turned["linf", 0.1] <= turned["linf", 0.3] == correct
    for records in found.values():
        assert all(r.success == (r.correct and r.adversarial != r.label) for r in records.values())
        assert all(r.success == (r.correct and r.margin_adversarial < 0) for r in records.values())

    def never(*arguments):
        raise AssertionError("a finished cell is computed again")

    monkeypatch.setattr(subject.KerasSubject, "attack", never)
    monkeypatch.setattr(subject.KerasSubject, "predict", never)
    assert call(evaluate, *asked) == 0
    assert capsys.readouterr().out == printed


def test_solver_settings_mean_nothing_to_a_model_without_ode_blocks(plain):
    asked = [f"--run={plain.path}", f"--num_examples={IMAGES}", "--eps=0.2"]
    assert call(evaluate, *asked, "--tol=1e-3,1", "--gradient=backprop,adjoint") == 0
    (cell,) = [cell for cell in attack_cells(plain) if cell.configuration.eps == 0.2]
    assert cell.configuration.tol is cell.configuration.gradient is cell.configuration.solver is None


def test_shards_and_processes_give_the_same_records(plain):
    shared = [f"--run={plain.path}", f"--num_examples={IMAGES}", "--attack=pgd", "--random_start"]
    assert call(evaluate, *shared, "--eps=0.15") == 0
    assert call(evaluate, *shared, "--eps=0.15", "--overwrite", "--distribute=2", "--batch_size=5") == 0
    (cell,) = [cell for cell in attack_cells(plain) if cell.configuration.eps == 0.15]
    assert {path.name.split("-")[1] for path in cell.folder.glob("records-*")} == {"1of2", "2of2"}
    merged = cell.records()
    cell.discard(range(IMAGES))
    for shard in ("3/3", "1/3", "2/3"):
        assert call(evaluate, *shared, "--eps=0.15", f"--shard={shard}") == 0
    again = cell.records()
    assert list(again) == list(merged) == list(range(IMAGES))
    for index, record in merged.items():
        other = vars(again[index])
        assert all(other[name] == pytest.approx(value, rel=1e-4) for name, value in vars(record).items())


def test_gpus_are_shared_before_the_model_is_loaded(plain, monkeypatch, capsys):
    calls = []

    def load(run):
        calls.append("load")
        raise RunError("far enough")

    monkeypatch.setattr(workers, "_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(workers, "_keep_first_gpu", lambda: calls.append("keep the first"))
    monkeypatch.setattr(evaluate.Run, "load_model", load)
    assert call(evaluate, f"--run={plain.path}", "--distribute=gpus") == 1
    assert calls == ["keep the first", "load"] and "far enough" in capsys.readouterr().err


def test_tolerance_and_gradient_reach_the_model(ode, monkeypatch):
    seen = []

    def attack(self, configuration, images, labels, indices, progress):
        self.configure(configuration)
        (block,) = ta.models.ode_blocks(self.model)
        seen.append((float(block.tol), block.gradient, configuration.tol, configuration.gradient))
        zeros = np.zeros(len(images))
        return types.SimpleNamespace(x_adv=images, distance=zeros, queries=zeros, gradients=zeros)

    monkeypatch.setattr(subject.KerasSubject, "attack", attack)
    asked = [f"--run={ode.path}", f"--num_examples={IMAGES}", "--tol=1e-3,1", "--gradient=backprop,adjoint"]
    assert call(evaluate, *asked) == 0
    assert {(round(tol, 6), gradient) for tol, gradient, _, _ in seen} == {
        (tol, gradient) for tol in (1e-3, 1.0) for gradient in ("backprop", "adjoint")
    }
    assert all(round(tol, 6) == wanted and gradient == asked for tol, gradient, wanted, asked in seen)
    clean = {cell.configuration.tol: cell.records() for cell in cells(ode.path) if cell.configuration.attack == "none"}
    nfe = {tol: np.mean([record.nfe_clean for record in records.values()]) for tol, records in clean.items()}
    assert nfe[1e-3] > nfe[1.0] >= 8


def test_a_gradient_through_another_solver(ode):
    asked = [f"--run={ode.path}", f"--num_examples={IMAGES}", "--eps=0.3", "--steps=2", "--attack=bim"]
    through = ["--gradient_solver=euler", "--gradient_num_steps=2", "--gradient=backprop"]
    assert call(evaluate, *asked, *through, "--tol=1") == 0
    (cell,) = [cell for cell in attack_cells(ode) if cell.configuration.attack == "bim"]
    found = cell.configuration
    assert (found.gradient_solver, found.gradient_num_steps) == ("euler", 2)
    assert found.hyperparameters["steps"] == 2 and len(cell.records()) == IMAGES


def test_a_tolerance_drawn_at_each_call_is_evaluated_and_shown(ode, capsys):
    asked = [f"--run={ode.path}", f"--num_examples={IMAGES}", "--attack=fgsm", "--eot=2", "--random_tol=1e-3,10"]
    assert call(evaluate, *asked) == 0
    (cell,) = [cell for cell in attack_cells(ode) if cell.configuration.random_tol]
    assert cell.configuration.random_tol == (1e-3, 10.0) and cell.configuration.tol is None
    assert {record.gradients for record in cell.records().values() if record.correct} <= {2}
    (clean,) = [c for c in cells(ode.path) if c.configuration.digest == cell.configuration.clean.digest]
    assert len({record.nfe_clean for record in clean.records().values()}) > 1
    assert "τ drawn from" in capsys.readouterr().out
    assert call(evaluate, *asked, "--solver=rk4", "--num_steps=2") == 2
    assert "rk4" in capsys.readouterr().err


def test_every_gradient_setting_reaches_the_attack():
    configuration = Configuration(
        "m",
        "mnist_5k",
        attack="pgd",
        norm="linf",
        eps=0.1,
        gradient="adjoint",
        gradient_tol=1e-5,
        gradient_solver="bosh3",
        eot=3,
        seed=5,
        hyperparameters={"steps": 7},
    )
    attack = make_attack(configuration, 16)
    assert (attack.seed, attack.steps, attack.batch_size, attack.eps) == (5, 7, 16, 0.1)
    assert attack.source == ta.attacks.EOT(3, ta.attacks.Through("adjoint", 1e-5, "bosh3"))
    plain = dataclasses.replace(configuration, gradient_tol=None, gradient_solver=None, eot=None)
    assert make_attack(plain).source == ta.attacks.Source()


def test_the_newest_run_is_named(plain, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(plain.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.Run, "newest", classmethod(lambda cls: cls.open("runs/one")))
    assert call(evaluate, "--attack=none", f"--num_examples={IMAGES}") == 0
    assert "evaluating the newest run, runs/one" in capsys.readouterr().out


def test_a_log_file_has_its_first_line_before_the_images_are_read(plain, tmp_path, monkeypatch):
    def arrays(*arguments, **options):
        assert "evaluating" in (tmp_path / "log").read_text()
        raise RunError("far enough")

    monkeypatch.setattr(evaluate.data, "arrays", arrays)
    with open(tmp_path / "log", "w") as log, contextlib.redirect_stdout(log):
        assert call(evaluate, f"--run={plain.path}") == 1


def test_the_report_and_the_summary_follow(plain, tmp_path, capsys):
    assert call(evaluate, f"--run={plain.path}", f"--num_examples={IMAGES}", "--eps=0.1,0.3") == 0
    summary = json.loads((plain.path / "evaluations" / "summary.json").read_text())
    assert {"clean_error", "success", "robust", "nfe_clean"} <= set(summary["results"][0])
    assert call(report, plain.path, f"--out={tmp_path / 'report'}") == 0
    assert "wrote" in capsys.readouterr().out
    assert "Every attack configuration" in (tmp_path / "report" / "index.html").read_text()


def test_a_folder_with_fewer_classes_is_evaluated_by_their_names(plain, tmp_path):
    images, labels = ta.data.arrays("mnist_5k", "test", 150)
    for split in ("train", "test"):
        for digit in (3, 7):
            pictures = tmp_path / "digits" / split / str(digit)
            pictures.mkdir(parents=True)
            for number, image in enumerate(images[labels == digit]):
                Image.fromarray((255 * image[..., 0]).astype(np.uint8)).save(pictures / f"{number}.png")
    dataset = f"folder:{tmp_path / 'digits'}"
    config = {**plain.config, "dataset": {"name": dataset, "classes": [str(digit) for digit in range(10)]}}
    run = Run.create(tmp_path / "run", config)
    run.model_path.write_bytes(plain.model_path.read_bytes())
    assert call(evaluate, f"--run={run.path}", "--attack=none") == 0
    (cell,) = cells(run.path)
    records = cell.records().values()
    assert {record.label for record in records} == {3, 7}
    assert np.mean([record.correct for record in records]) > 0.7


def test_reproduce_lists_what_is_missing(tmp_path, capsys):
    asked = ["--paper=wifs2019", "--table=2", "--num_examples=10", f"--runs={tmp_path}"]
    assert call(reproduce, *asked, "--gradient=adjoint,backprop") == 0
    printed = capsys.readouterr().out
    assert printed.count("66 entries are missing") == 2
    assert "bin/train --flagfile=configs/wifs2019/mnist_oon.cfg" in printed and "[0.27]" in printed
    page = tmp_path / "reproduced" / "wifs2019-table2-mnist" / "index.html"
    assert "bin/evaluate" in page.read_text()
    assert call(reproduce, "--figure=2", f"--runs={tmp_path}") == 0
    assert "--num_images=100" in capsys.readouterr().out


def test_reproduce_tells_gradients_apart_and_none_where_none_is_taken(tmp_path, capsys):
    out = tmp_path / "out"
    asked = [f"--runs={tmp_path}", "--num_examples=10", "--gradient=adjoint,backprop", f"--out={out}"]
    assert call(reproduce, "--table=2", *asked) == 0
    assert {path.name for path in out.glob("*.csv")} == {"table-1-adjoint.csv", "table-2-backprop.csv"}
    latex = (out / "tables.tex").read_text()
    assert all(f"PGD-10, gradient: {gradient}}}" in latex for gradient in ("adjoint", "backprop"))
    assert call(reproduce, "--table=1", *asked) == 0
    assert {path.name for path in out.glob("*.csv")} == {"table-1.csv"}
    page = (out / "index.html").read_text()
    assert "Clean images" in page and "Gradient of the attack" not in page and "gradient:" not in page
    assert [one["gradient"] for one in json.loads((out / "results.json").read_text())["reproduced"]] == [None]
    capsys.readouterr()


def test_each_papers_gradient_is_the_default(tmp_path, capsys):
    for paper, gradient in (("wifs2019", "adjoint"), ("msml2022", "backprop_steps")):
        table = [] if paper == "msml2022" else ["--table=2"]
        assert call(reproduce, f"--paper={paper}", *table, "--num_examples=10", f"--runs={tmp_path}") == 0
        assert f"gradient: {gradient}" in capsys.readouterr().out
    assert call(reproduce, "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: all; 100 for a figure" in shown and "msml2022: backprop_steps" in shown


def test_reproduce_evaluates_what_is_missing(ode, tmp_path, capsys, monkeypatch):
    run = []
    monkeypatch.setattr(reproduce.workers, "run", lambda program, flags: run.append((program, flags)) or 0)
    folder = tmp_path / "oon"
    config = {**ode.config, "dataset": {"name": "mnist"}, "flags": {"filters": 64}}
    Run.create(folder, config).model_path.write_bytes(ode.model_path.read_bytes())
    asked = ["--table=2", "--num_examples=10", f"--runs={tmp_path}"]
    assert call(reproduce, *asked, "--evaluate") == 0
    ((program, given),) = run
    assert program == "evaluate" and f"--run={folder}" in given and "--gradient=adjoint" in given
    run.clear()
    assert call(reproduce, *asked, "--train") == 0
    assert [program for program, _ in run] == ["train", "evaluate", "train", "evaluate", "evaluate"]
    monkeypatch.setattr(reproduce.workers, "run", lambda program, flags: 1)
    assert call(reproduce, *asked, "--evaluate") == 1
    assert "this command failed with status 1: bin/evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--attack=fgsn"], "fgsn"),
        (["--norm=l7"], "linf, l2, l2rms"),
        (["--eps=-1"], "eps"),
        (["--eps=nan"], "eps"),
        (["--tol=0"], "tol"),
        (["--tol=1e-3,x"], "'x'"),
        (["--solver=rk5"], "rk5"),
        (["--gradient=forward"], "backprop"),
        (["--gradient_solver=rk5"], "rk5"),
        (["--shard=3/2"], "3/2"),
        (["--distribute=moon"], "moon"),
        (["--attack=square", "--step_size=0.1"], "step_size"),
        (["--attack=cw", "--norm=linf"], "l2"),
        (["--attack="], "pgd"),
        (["--attack=fgsm", "--steps=5"], "steps"),
        (["--eps=0.2", "--options=steps=abc"], "steps is 'abc'"),
        (["--gradient_solver=rk4"], "gradient_num_steps"),
        (["--random_tol=1"], "LOW,HIGH"),
        (["--random_tol=1,1e-3"], "LOW,HIGH"),
        (["--random_tol=1e-3,1", "--tol=1"], "leave out tol"),
        (["--random_tol=1e-3,1", "--gradient_tol=1e-5"], "leave out gradient_tol"),
        (["--options=eps=0.5"], "eps"),
        (["--options=seed=3"], "seed"),
        (["--options=targeted=true"], "targeted"),
        (["--options=early_stop=no"], "early_stop"),
        (["--options=samples"], "samples"),
        (["--attack=spsa", "--options=samples=3"], "samples"),
        (["--num_examples=0"], "num_examples"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_flags_are_refused_in_one_line_before_data_is_read(plain, arguments, named, capsys, monkeypatch):
    monkeypatch.setattr(evaluate.data, "arrays", lambda *a, **k: pytest.fail("data was read"))
    assert call(evaluate, f"--run={plain.path}", *arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("images", "label", "named"),
    [((32, 32, 3), 9, ["(32, 32, 3)", "(28, 28, 1)"]), ((28, 28, 1), 11, ["11", "10 classes"])],
)
def test_images_that_do_not_fit_the_model_are_named(plain, images, label, named, capsys, monkeypatch):
    data = np.zeros((2, *images), np.float32), np.array([0, label])
    monkeypatch.setattr(evaluate.data, "arrays", lambda *a, **k: data)
    assert call(evaluate, f"--run={plain.path}", "--attack=none") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in named) and error.count("\n") == 1


def test_a_failed_solve_of_clean_images_is_one_line(ode, capsys):
    assert call(evaluate, f"--run={ode.path}", "--attack=none", "--tol=1e-12", "--num_examples=4") == 1
    error = capsys.readouterr().err
    assert "4 of 4 samples: 4 needed a step below" in error and error.count("\n") == 1


def test_copies_are_given_what_the_user_gave():
    flags = evaluate.FLAGS
    flags.unparse_flags()
    flags(["evaluate", "--attack=cw", "--tol=1e-3,1"])
    own = ["--distribute=none", "--overwrite=false", "--shard=2/2"]
    assert sorted(workers._arguments(flags, {"shard": "2/2"})) == sorted(["--attack=cw", "--tol=0.001,1.0", *own])


def block(**settings):
    return types.SimpleNamespace(**{"solver": "bosh3", "tol": 0.1, "gradient": "backprop", "num_steps": 1, **settings})


def spanned(blocks, **axes):
    axes = grid.Axes(**{"attacks": ["pgd"], **axes})
    return grid.model_grid(grid.attack_grid(axes, "mnist"), axes, blocks)


def test_stock_tfp_has_one_gradient():
    (configuration,) = spanned([block()], solvers=["tfp"], gradients=["backprop", "adjoint"])
    assert configuration.gradient == "adjoint"
    with pytest.raises(UsageError, match="gradient is backprop, but must be adjoint"):
        spanned([block()], solvers=["tfp"], gradients=["backprop"])


def test_fixed_steps_are_counted_by_the_user():
    with pytest.raises(UsageError, match="rk4, which takes fixed steps"):
        spanned([block()], solvers=["rk4"])
    with pytest.raises(UsageError, match="num_steps is 4, but bosh3 chooses its own"):
        spanned([block()], num_steps=4)
    assert spanned([block()], solvers=["rk4"], num_steps=4)[0].num_steps == 4
    assert spanned([block(solver="rk4", num_steps=3)])[0].num_steps == 3


def test_tolerances_are_drawn_for_models_that_take_one():
    with pytest.raises(UsageError, match="no ODE blocks"):
        spanned([], random_tol=[1e-3, 1])
    with pytest.raises(UsageError, match="solver is tfp, but random_tol needs"):
        spanned([block()], solvers=["tfp"], random_tol=[1e-3, 1])
    drawn, held = spanned([block()], random_tol=[1e-3, 1])[0], spanned([block()])[0]
    assert drawn.digest != held.digest and drawn.clean.digest != held.clean.digest
    assert Configuration.from_dict(json.loads(json.dumps(drawn.as_dict()))) == drawn


def test_what_a_model_without_blocks_has_no_use_for_is_left_out():
    assert len(spanned([], gradients=["backprop", "adjoint"], gradient_tol=1e-5, eot=3)) == 1
    assert spanned([], gradient_tol=1e-5, eot=3)[0].digest == spanned([])[0].digest


def test_a_run_that_is_not_finished_or_damaged_is_named(tmp_path, capsys):
    assert call(evaluate, f"--run={tmp_path / 'gone'}") == 1
    assert "gone/config.json" in capsys.readouterr().err
    folder = tmp_path / "run"
    Run.create(folder, {"model": {"name": "oon"}, "dataset": {"name": "mnist_5k"}})
    assert call(evaluate, f"--run={folder}") == 1
    assert "model.keras" in capsys.readouterr().err
    (folder / "config.json").write_text("{")
    for program, argument in ((evaluate, f"--run={folder}"), (report, folder)):
        assert call(program, argument) == 1
        error = capsys.readouterr().err
        assert "config.json" in error and error.count("\n") == 1


def test_report_wants_a_run(capsys):
    assert call(report) == 2
    assert "no run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--paper=nips"], "wifs2019"),
        (["--table=7"], "7"),
        (["--table=2", "--dataset=cifar10"], "table 2"),
        (["--figure=3"], "figure is 3"),
        (["--figure=2", "--table=1"], "exclude"),
        (["--figure=2", "--paper=msml2022"], "msml2022"),
        (["--num_examples=20000"], "10000"),
    ],
)
def test_reproduce_refuses_what_is_not_in_the_paper(arguments, named, capsys):
    assert call(reproduce, *arguments) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_help_lists_every_attack(capsys):
    assert call(evaluate, "--attack=help") == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in ta.attacks.available())


@pytest.mark.parametrize(
    "given, words",
    [
        ({"attacks": ["none"], "eps": [0.1]}, "eps is 0.1, but attack none"),
        ({"attacks": ["none"], "norms": ["l2"]}, "norm is l2, but attack none"),
        ({"attacks": ["none"], "hyperparameters": {"steps": 3}}, "steps is 3, but attack none"),
        ({"attacks": ["none"], "gradients": ["adjoint"]}, "gradient is adjoint, but attack none"),
        ({"attacks": ["spsa"], "gradient_tol": 1e-5}, "gradient_tol is 1e-05, but spsa takes no gradient"),
        ({"attacks": ["spsa", "square"], "eot": 3}, "eot is 3, but spsa, square takes no gradient"),
        ({"gradient_solver": "dopri5", "gradient_num_steps": 4}, "gradient_num_steps is 4, but dopri5 chooses"),
        ({"gradient_num_steps": 4}, "gradient_num_steps is 4, but bosh3 chooses"),
        ({"gradient_solver": "rk4", "gradient_num_steps": 4, "gradient_tol": 1e-3}, "gradient_tol is 0.001, but rk4"),
    ],
)
def test_what_means_nothing_to_any_attack_or_solver_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        spanned([block()], **given)


def test_what_means_something_to_one_of_several_is_left_out_of_the_others():
    both = spanned([block()], attacks=["pgd", "spsa"], gradient_tol=1e-5)
    assert [one.gradient_tol for one in both] == [1e-5, None]
    mixed = spanned([block()], solvers=["bosh3", "rk4"], num_steps=3, gradient_num_steps=4)
    assert [one.gradient_num_steps for one in mixed] == [None, 4]


def test_draws_are_averaged_where_something_is_random(plain, capsys):
    assert call(evaluate, f"--run={plain.path}", "--num_examples=4", "--eot=3") == 2
    assert "eot is 3, but the model has nothing random" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["samples=2147483648", "learning_rate=1e39", "learning_rate=1e400"])
def test_options_beyond_32_bits_are_refused(option, capsys):
    assert call(evaluate, "--attack=spsa", f"--options={option}") == 2
    assert "32 bits" in capsys.readouterr().err


def test_one_damaged_cell_does_not_stop_the_others_and_is_computed_anew_when_told(plain, capsys):
    asked = [f"--run={plain.path}", "--num_examples=6", "--attack=fgsm"]
    assert call(evaluate, *asked, "--eps=0.02") == 0
    (cell,) = [cell for cell in attack_cells(plain) if cell.configuration.eps == 0.02]
    (path,) = cell.folder.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"index":3', b'"index":0.5'))
    capsys.readouterr()
    assert call(evaluate, *asked, "--eps=0.03") == 0
    printed = capsys.readouterr().out
    assert "0.03" in printed and path.name in printed and "left out" in printed
    assert call(evaluate, *asked, "--eps=0.02,0.04") == 1
    captured = capsys.readouterr()
    assert "0.04" in captured.out and path.name in captured.err and "--overwrite" in captured.err
    assert call(evaluate, *asked, "--eps=0.02", "--overwrite") == 0
    assert len(cell.records()) == 6 and "left out" not in capsys.readouterr().out
