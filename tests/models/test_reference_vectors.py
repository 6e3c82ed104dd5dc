"""Every model against what the papers' own programs computed, one image at a time.

Parametrised over the `model_*.npz` there are: another set of the same form needs no change here.
"""

import functools
import os
import pathlib
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.interop.names import torch_name, translate
from tfode_adv.layers import ODEBlock

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(os.environ.get("TFODE_SHARED", ROOT.parent / "shared")) / "oracles"
FILES = sorted(FOLDER.glob("model_*.npz"))
# What the programs' fixed-step methods are here, one step over [0, 1] each.
FIXED = {"euler": "euler", "midpoint": "midpoint", "rk4": "kutta38"}

pytestmark = pytest.mark.skipif(not FILES, reason=f"no reference vectors: {FOLDER / 'model_*.npz'}")


def family(file):
    """The longest name of a model that the file's name starts with."""
    stem = file.stem.removeprefix("model_")
    return max((n for n in ta.models.available() if f"{stem}_".startswith(f"{n}_")), key=len)


class Oracle:
    """A file and its model."""

    def __init__(self, file):
        with np.load(file) as archive:
            self.arrays = dict(archive)
        state = {k.removeprefix("state/"): v for k, v in self.arrays.items() if k.startswith("state/")}
        self.x, self.y = tf.constant(self.arrays["x"].transpose(0, 2, 3, 1)), self.arrays["y"]
        self.model = ta.interop.build_from_state(family(file), state, input_shape=tuple(self.x.shape[1:]))

    def use(self, prefix, gradient="backprop"):
        """Sets the solver that `prefix`, "METHOD/TOL/", names."""
        if prefix:
            method, tol = prefix.split("/")[:2]
            steps = {"num_steps": 1} if method in FIXED else {}
            ta.models.set_solver(
                self.model, tol=float(tol), solver=FIXED.get(method, method), gradient=gradient, **steps
            )

    def forward(self):
        """Logits and evaluations of each image."""
        with ta.layers.record_statistics() as records:
            logits = self.model(self.x, training=False)
        return logits, sum(statistics.nfe.numpy() for _, statistics in records)

    def forward_and_gradient(self):
        """Logits, evaluations, and the gradient of each image's cross-entropy, NCHW."""
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            logits, nfe = self.forward()
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, logits)
        return logits, nfe, tape.gradient(loss, self.x).numpy().transpose(0, 3, 1, 2)

    def agrees(self, prefix, logits, nfe):
        np.testing.assert_allclose(logits, self.arrays[f"{prefix}logits"], atol=1e-4)
        return not prefix or nfe.tolist() == self.arrays[f"{prefix}nfe"].tolist()


def cosine(a, b):
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (a, b))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


class Case(NamedTuple):
    file: pathlib.Path
    prefix: str

    def __str__(self):
        return f"{self.file.stem.removeprefix('model_')}-{self.prefix or 'plain'}"


def cases(ending):
    """(file, "METHOD/TOL/") for every array that ends so."""
    for file in FILES:
        with np.load(file) as archive:
            names = [name for name in archive.files if not name.startswith("state/")]
        yield from (Case(file, name.removesuffix(ending)) for name in names if name.split("/")[-1] == ending)


@functools.cache
def compiled_dynamics(block):
    return tf.function(block.dynamics, autograph=False, reduce_retracing=True)


@pytest.fixture(scope="module")
def oracle():
    """Models called eagerly, each block's dynamics one compiled function: many settings, few traces."""

    def field(block, evaluation, backwards):
        return lambda t, h, places=None: compiled_dynamics(block)(t, h)

    with mock.patch.object(ODEBlock, "_field", field):
        yield functools.cache(Oracle)
    compiled_dynamics.cache_clear()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_weight_has_the_program_s_name(oracle, file):
    """So that a message about a missing array says what it is called in the file."""
    names = [name.removeprefix("state/") for name in oracle(file).arrays if name.startswith("state/")]
    assert [torch_name(translate(name), family(file)) for name in names] == names


WITH_GRADIENT = list(cases("grad"))


@pytest.mark.parametrize("case", [case for case in cases("logits") if case not in WITH_GRADIENT], ids=str)
def test_logits_and_evaluations(oracle, case):
    vectors = oracle(case.file)
    vectors.use(case.prefix)
    assert vectors.agrees(case.prefix, *vectors.forward())


# There rounding decides: 1e-8 on the pixels turns the program's own gradient to a cosine of 0.73 and 0.96 with itself
# (benchmarks/vectors.py); "backprop" has 0.29 and 0.52.
ROUGH = {"sonet_2x-dopri5/0.1/": 0.6}


@pytest.mark.parametrize("case", WITH_GRADIENT, ids=str)
def test_logits_evaluations_and_gradient(oracle, case):
    """The programs differentiated their step sizes too: "backprop_steps"."""
    vectors = oracle(case.file)
    vectors.use(case.prefix, "backprop_steps")
    logits, nfe, gradient = vectors.forward_and_gradient()
    assert vectors.agrees(case.prefix, logits, nfe)
    assert cosine(gradient, vectors.arrays[f"{case.prefix}grad"]).min() > ROUGH.get(str(case), 0.999)


ADJOINT = [case for case in cases("grad_adjoint") if case.file.stem == "model_oon_mnist"]


@pytest.mark.parametrize("case", [ADJOINT[0], ADJOINT[-1]] if ADJOINT else [], ids=str)
def test_the_adjoint_goes_where_the_program_s_goes(oracle, case):
    """As far as two adjoint solves agree, each wrong by its own error; of every file, BUILD_NOTES.md says it."""
    vectors = oracle(case.file)
    vectors.use(case.prefix, "adjoint")
    assert cosine(vectors.forward_and_gradient()[-1], vectors.arrays[f"{case.prefix}grad_adjoint"]).min() > 0.95


SMALLEST = {family(case.file): case for case in WITH_GRADIENT if case.prefix}


@pytest.mark.parametrize("case", [c for n, c in SMALLEST.items() if n in ("oon", "soblock_resnet10")], ids=str)
def test_what_holding_the_step_sizes_costs(oracle, case):
    """On random weights little; by how much in every file, BUILD_NOTES.md says."""
    vectors = oracle(case.file)
    vectors.use(case.prefix, "backprop")
    assert cosine(vectors.forward_and_gradient()[-1], vectors.arrays[f"{case.prefix}grad"]).min() > 0.98
