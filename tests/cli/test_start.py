"""Help, and mistakes that the flags alone tell of, are there before TensorFlow is imported."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("convert", "demo", "diagnose", "evaluate", "report", "reproduce", "train", "tune", "verify")
MISTAKES = [
    ["train", "--modle=oon"],
    ["train", "--model=onn"],
    ["train", "--solver=dopri"],
    ["train", "--gradient=exact"],
    ["train", "--num_steps=8"],
    ["train", "--depth=4"],
    ["train", "--epochs=0"],
    ["train", "--validation=1"],
    ["train", "--augment=blur"],
    ["train", "--mixed_precision=int8"],
    ["train", "--distribute=moon"],
    ["train", "--schedule=cosine", "--factor=0.5"],
    ["train", "--loss=madry", "--inverse_lambda=3"],
    ["train", "--resume", "--overwrite"],
    ["train", "--resume", "--run_dir=nowhere"],
    ["train", "--run_dir=full"],
    ["evaluate", "--attack=pdg"],
    ["evaluate", "--norm=l3"],
    ["evaluate", "--solver=dopri"],
    ["evaluate", "--eps=-0.1"],
    ["evaluate", "--options=momentum=3"],
    ["evaluate", "--attack=none", "--eps=0.1"],
    ["evaluate", "--attack=spsa", "--gradient=adjoint"],
    ["evaluate", "--random_tol=1,0.1"],
    ["evaluate", "--shard=3/2"],
    ["evaluate", "--distribute=many"],
    ["evaluate", "--run=nowhere"],
    ["evaluate", "--run=zoo:nowhere"],
    ["evaluate", "--save_adversarial", "--attack=none"],
    ["evaluate", "--save_adversarial", "--random_tol=1e-3,1"],
    ["evaluate"],
    ["diagnose", "--budget=huge"],
    ["diagnose", "nowhere"],
    ["diagnose", "a", "b"],
    ["report"],
    ["report", "nowhere"],
    ["reproduce", "--table=9"],
    ["reproduce", "--table=1", "--figure=2"],
    ["tune", "--method=grid"],
    ["tune", "--filter_choices=16,0"],
    ["tune", "--solver_choices=dopri"],
    ["tune"],
    ["convert"],
    ["convert", "--model=onn", "--from=a", "--run_dir=b"],
    ["demo", "--epochs=0"],
    ["verify"],
    ["verify", "nowhere.npz"],
]
CALLS = [
    *([name, "--help"] for name in PROGRAMS),
    ["evaluate", "--attack=help"],
    *MISTAKES,
]
# All in one process: what one call imports, the calls after it have.
CHILD = """
import contextlib, importlib, io, json, sys
from tfode_adv.cli import app

HEAVY = ("tensorflow", "keras", "tensorflow_probability", "tensorflow_datasets", "matplotlib")
for name, *arguments in json.loads(sys.argv[1]):
    program = importlib.import_module(f"tfode_adv.cli.{name}")
    said, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        positional = name in ("diagnose", "report", "verify")
        status = app.call(program.main, program.FLAGS, [name, *arguments], positional)
    heavy = [module for module in HEAVY if module in sys.modules]
    print(json.dumps([status, len(said.getvalue()), failed.getvalue(), heavy]))
    if heavy:
        break
"""


def test_help_and_mistakes_do_not_wait_for_tensorflow(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(CALLS)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for call, line in zip(CALLS, done.stdout.splitlines(), strict=False):
        status, said, failed, heavy = json.loads(line)
        assert not heavy, (call, heavy)
        if call in MISTAKES:
            assert status in (1, 2) and failed.startswith(f"{call[0]}: ") and failed.count("\n") == 1, (call, failed)
        else:
            assert status == 0 and said > 300 and not failed, (call, failed)
    assert len(done.stdout.splitlines()) == len(CALLS)
