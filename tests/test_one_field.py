"""A new option of how a block is solved is one field, and the line that obeys it."""

import os
import pathlib
import shutil
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "tfode_adv"
FIELD = """
    controller: str = option(
        "i", "How steps are controlled: i or pi.", choices=("i", "pi"), recorded=True, axis="controllers"
    )
"""
BOUNDS = '"endpoint", "min_step", "max_step"'
PROGRAM = """
import dataclasses
import keras, tensorflow as tf, tfode_adv as ta
from tfode_adv.cli import evaluate, train
from tfode_adv.evaluation import grid
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.kept_images import Kept
from tfode_adv.evaluation.results import Result
from tfode_adv.evaluation.subject import make_attack
from tfode_adv.reports import naming

block = ta.layers.ODEBlock(lambda t, h: tf.sin(20 * t) * h, solver="heun2", tol=1e-3, controller="pi")
saved = ta.layers.ODEBlock(keras.layers.Dense(1), controller="pi").get_config()
assert ta.layers.ODEBlock.from_config(saved).controller == "pi"
model = keras.Sequential([keras.Input((1,)), block])
count = lambda: int(ta.models.solver_statistics(model, tf.ones([1, 1])).nfe[0])
own = count()
with ta.layers.solver_settings(controller="i"):
    integral = count()
assert ta.models.set_solver(model, controller="i") == 1 and block.controller == "i" and count() == integral != own
try:
    block.controller = "d"
except ta.errors.UsageError as error:
    assert "controller is 'd', but must be one of: i, pi" in str(error)
else:
    raise AssertionError("it is not checked")

assert ta.attacks.Through(controller="pi").settings == {"controller": "pi"}
configuration = Configuration("abc", "mnist", tol=1e-3, solver="dopri5")
assert configuration.digest == "7b9ec8c70525a830"
given = Configuration("abc", "mnist", tol=1e-3, solver="dopri5", controller="pi")
assert given.digest != configuration.digest and given.clean == given
assert Configuration.from_dict(given.as_dict()) == given
attacked = Configuration("", "mnist", attack="pgd", norm="linf", eps=0.1, seed=0, gradient_controller="pi")
assert make_attack(attacked).source == ta.attacks.Through(controller="pi")
axes = grid.Axes(controllers=["i", "pi"], gradient_controller="pi")
found = grid.model_grid(grid.attack_grid(axes, "mnist"), axes, [block])
assert [(one.controller, one.gradient_controller) for one in found] == [("i", "pi"), ("pi", "pi")]

result = Result("toy", dataclasses.replace(found[1], gradient="backprop"), {}, Kept())
assert (naming.solver(result), result.gradient) == ("heun2 (controller pi)", "backprop (controller pi)")

assert "controller" in train.FLAGS
evaluate.FLAGS(["evaluate", "--controller=i,pi", "--gradient_controller=pi"])
axes = evaluate._axes({})
assert axes.controllers == ["i", "pi"] and axes.gradient_controller == "pi"
"""


def test_an_option_added_in_one_field_is_found_everywhere(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "tfode_adv", ignore=shutil.ignore_patterns("__pycache__"))
    fields = tmp_path / "tfode_adv" / "solvers" / "block_options.py"
    head, found, tail = fields.read_text().partition("\n    def __post_init__")
    assert found
    fields.write_text(head + FIELD + found + tail)
    obeying = tmp_path / "tfode_adv" / "layers" / "ode_block.py"
    assert obeying.read_text().count(BOUNDS) == 1
    obeying.write_text(obeying.read_text().replace(BOUNDS, f'{BOUNDS}, "controller"'))
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
