"""Every model against what the papers' own programs computed, one image at a time.

Parametrised over the `model_*.npz` there are: another set of the same form needs no change here.
"""

import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta

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
    """A file, its model, and one compiled function a method: a tolerance needs no new trace."""

    def __init__(self, file):
        with np.load(file) as archive:
            self.arrays = dict(archive)
        state = {k.removeprefix("state/"): v for k, v in self.arrays.items() if k.startswith("state/")}
        self.model = ta.interop.build_from_state(family(file), state)
        self.x, self.y = tf.constant(self.arrays["x"].transpose(0, 2, 3, 1)), self.arrays["y"]
        self.functions = {}

    def compute(self, method, tol, gradient="backprop"):
        """Logits, evaluations and the gradient of each image's cross-entropy (NCHW)."""
        if method:
            steps = {"num_steps": 1} if method in FIXED else {}
            ta.models.set_solver(
                self.model, tol=float(tol), gradient=gradient, solver=FIXED.get(method, method), **steps
            )
        if (method, gradient) not in self.functions:
            self.functions[method, gradient] = tf.function(self._compute, autograph=False)
        logits, nfe, dx = self.functions[method, gradient](self.x)
        return logits.numpy(), nfe.numpy(), dx.numpy().transpose(0, 3, 1, 2)

    def _compute(self, x):
        with tf.GradientTape() as tape, ta.layers.record_statistics() as records:
            tape.watch(x)
            logits = self.model(x, training=False)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, logits)
        nfe = tf.zeros([tf.shape(x)[0]], tf.int32)
        for _, statistics in records:
            nfe += statistics.nfe
        return logits, nfe, tape.gradient(loss, x)


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


@pytest.fixture(scope="module")
def oracle():
    return functools.cache(Oracle)


@pytest.mark.parametrize("case", list(cases("logits")), ids=str)
def test_logits_evaluations_and_gradient(oracle, case):
    vectors = oracle(case.file)
    method, tol = case.prefix.split("/")[:2] if case.prefix else (None, None)
    logits, nfe, dx = vectors.compute(method, tol)
    np.testing.assert_allclose(logits, vectors.arrays[f"{case.prefix}logits"], atol=1e-4)
    if method:
        assert nfe.tolist() == vectors.arrays[f"{case.prefix}nfe"].tolist()
    assert cosine(dx, vectors.arrays[f"{case.prefix}grad"]).min() > 0.999
