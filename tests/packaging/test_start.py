"""What a user meets first: a clone not installed, another Keras backend, TensorFlow Probability missing."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WITHOUT_TFP = """
import sys

sys.modules["tensorflow_probability"] = None
# First, as it alone holds back the notes that TensorFlow writes on some processors whatever the level.
import tfode_adv as ta
import keras
import numpy as np
import tensorflow as tf

block = ta.layers.ODEBlock(lambda t, h: -h, solver="dopri5", tol=1e-6)
with tf.GradientTape() as tape:
    x = tf.Variable([[1.0]])
    y = block(x)
print("solved", float(y[0, 0]), float(tape.gradient(y, x)[0, 0]))
chosen = ta.solvers.get("heun2", rtol=1e-2, atol=1e-2).solve(
    lambda t, y: -y, 0.0, tf.ones([1]), ta.solvers.ChosenBySolver(1.0)
)
print("diagnostics", bool(chosen.diagnostics.success), float(chosen.times[-1]))
model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
result = ta.attacks.PGD(norm="linf", eps=0.1, step_size=0.05, steps=2)(model, np.full([1, 4, 4, 1], 0.5), [0])
print("attacked", result.x_adv.shape)
try:
    ta.solvers.get("tfp")
except ta.errors.RunError as error:
    print("refused", error)
"""


def start(*command, **environment):
    # KERAS_HOME may hold a configuration of the user's own.
    environment = {"PYTHONPATH": str(ROOT), "KERAS_HOME": os.devnull, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


# Nothing of ours is asked for but the import: of the package, and of a part that is half imported when Keras comes.
LOADS = """
import sys
import {first}
assert "." in "{first}" or not {{"tensorflow", "keras"}} & {{*sys.modules}}
import keras
print(type(keras.models.load_model(sys.argv[1]).layers[-1].dynamics).__name__)
assert all(type(finder).__module__ != "tfode_adv.registration" for finder in sys.meta_path)
"""


@pytest.mark.parametrize("first", ["tfode_adv", "tfode_adv.tensorflow_internals"])
def test_a_saved_model_loads_whichever_import_came_first(tmp_path, first):
    import keras

    import tfode_adv as ta

    block = ta.layers.ODEBlock(ta.layers.ConvDynamics(2), solver="euler")
    keras.Sequential([keras.Input((4, 4, 2)), block]).save(tmp_path / "model.keras")
    done = start(sys.executable, "-c", LOADS.format(first=first), tmp_path / "model.keras")
    assert done.stdout == "ConvDynamics\n", done.stderr
    assert done.stderr == ""


def test_without_tensorflow_probability_all_but_its_own_solver_works():
    done = start(sys.executable, "-c", WITHOUT_TFP)
    assert done.returncode == 0, done.stderr
    solved, diagnostics, attacked, refused = done.stdout.splitlines()
    assert [float(word) for word in solved.split()[1:]] == pytest.approx([0.36788, 0.36788], abs=1e-4)
    assert diagnostics == "diagnostics True 1.0"
    assert attacked == "attacked (1, 4, 4, 1)"
    assert "solver='tfp' needs TensorFlow Probability, which is not installed" in refused and "dopri5" in refused
    # As quiet at level 3 as at 2.
    assert done.stderr == ""


@pytest.mark.parametrize("configured_by", ["environment", "file"])
def test_another_backend_is_refused_in_one_line(tmp_path, configured_by):
    (tmp_path / "keras.json").write_text('{"backend": "jax"}' if configured_by == "file" else "{}")
    backend = "torch" if configured_by == "environment" else ""
    done = start(sys.executable, "-c", "import tfode_adv", KERAS_HOME=str(tmp_path), KERAS_BACKEND=backend)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert "tfode_adv needs Keras on TensorFlow" in last and "KERAS_BACKEND=tensorflow" in last
    assert ("'torch'" in last) if backend else ("'jax'" in last and "keras.json" in last)


def test_a_program_says_the_backend_in_one_line():
    done = start(sys.executable, ROOT / "bin" / "train", KERAS_BACKEND="jax")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("train: tfode_adv needs Keras on TensorFlow")


def test_a_clone_that_is_not_installed_says_how_to(tmp_path):
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    shutil.copytree(ROOT / "tfode_adv", tmp_path / "tfode_adv", ignore=shutil.ignore_patterns("__pycache__"))
    # Without its site-packages, Python is as bare as a system's.
    done = start(sys.executable, "-S", tmp_path / "bin" / "train", "--model=oon", PYTHONPATH="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("train: No module named")
    assert "make demo" in done.stderr and "pip install" in done.stderr


def test_tab_completion_lists_what_is_public():
    import tfode_adv as ta

    assert "attacks" in dir(ta) and "layers" in dir(ta)
    assert not {"importlib", "startup", "annotations", "on_demand", "TYPE_CHECKING"} & set(dir(ta))
    for module in (ta, ta.attacks, ta.data, ta.interop, ta.models, ta.solvers, ta.training, ta.zoo):
        assert all(hasattr(module, name) for name in dir(module)), module
        assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="tfode_adv.attacks.*pdg"):
        ta.attacks.pdg  # noqa: B018


def test_a_short_import_leaves_optional_packages_out_and_who_asks_for_one_has_it_afterwards():
    code = """
import gc
import sys
from tfode_adv import startup

with startup.short():
    import keras
    assert not gc.isenabled()
left_out = {"matplotlib", "pandas", "sklearn"} & sys.modules.keys()
import matplotlib.pyplot

print("left out", sorted(left_out), gc.isenabled(), gc.get_freeze_count() > 0, matplotlib.pyplot.figure() is not None)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "left out [] True True True\n", done.stderr
