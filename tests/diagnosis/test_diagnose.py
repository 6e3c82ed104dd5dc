"""A Keras model of one's own is diagnosed from Python: no run folder, no ODE block."""

import json
import types

import keras
import numpy as np
import pytest

import tfode_adv as ta
from tfode_adv.diagnosis import diagnose, fingerprint
from tfode_adv.errors import RunError, UsageError

CLASSES = 3
CENTRES = np.random.default_rng(0).uniform(0.3, 0.7, (CLASSES, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, 12)
    return np.clip(CENTRES[y] + 0.02 * rng.standard_normal((12, 4, 4, 1)), 0, 1).astype(np.float32), y


def linear(scale=8.0):
    """The nearest centre: a linear classifier, open to any attack."""
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(name="flat"), keras.layers.Dense(CLASSES, name="logits")]
    model = keras.Sequential(layers, name="centres")
    kernel = CENTRES.reshape(CLASSES, -1).T
    model.set_weights([scale * kernel, -scale / 2 * (kernel**2).sum(0)])
    return model


def test_a_plain_keras_model_is_diagnosed_and_a_second_time_only_read(data, tmp_path, monkeypatch):
    model = linear()
    document = ta.reports.diagnose(model, *data, tmp_path, eps=0.02)
    assert document["verdict"]["label"] in ("credible", "inconclusive", "not robust")
    assert document["verdict"]["images"] == 12 and document["settings"]["published gradient"] == "the model's own"
    assert (document["settings"]["step size"], document["settings"]["ε"]) == (0.005, 0.02)
    assert json.loads((tmp_path / "diagnosis.json").read_text()) == document
    text = (tmp_path / "index.html").read_text()
    assert document["verdict"]["sentence"].split(":")[0] in text and "Diagnosis of centres" in text

    def never(*arguments):
        raise AssertionError("a finished piece is computed again")

    monkeypatch.setattr(diagnose.Probe, "around", never)
    assert ta.reports.diagnose(model, *data, tmp_path, eps=0.02) == document
    with pytest.raises(AssertionError, match="computed again"):
        ta.reports.diagnose(linear(scale=4.0), *data, tmp_path, eps=0.02)


def test_a_model_is_known_by_its_weights_and_settings(tmp_path):
    model = linear()
    model.save(tmp_path / "model.keras")
    same = fingerprint.of_model(keras.models.load_model(tmp_path / "model.keras"))
    assert fingerprint.of_model(model) == same != fingerprint.of_model(linear(scale=4.0))
    block = ta.layers.ODEBlock(keras.layers.Dense(2), solver="heun2", name="flow")
    ode = keras.Sequential([keras.Input((2,)), block])
    before = fingerprint.of_model(ode)
    block.tol = 1.0
    assert fingerprint.of_model(ode) != before
    block.tol = 1e-3
    assert fingerprint.of_model(ode) == before


class Closed(keras.layers.Layer):
    """Does not tell Keras what it was made with."""

    def __init__(self, secret):
        super().__init__(name="closed")
        self.secret = secret

    def get_config(self):
        raise NotImplementedError


def test_a_layer_that_hides_its_settings_is_taken_for_no_other():
    first, second = (keras.Sequential([keras.Input((2,)), Closed(secret)], name="model") for secret in (1, 2))
    assert fingerprint.of_model(first) == fingerprint.of_model(first) != fingerprint.of_model(second)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"norm": "l7"}, "norm is 'l7', but must be one of: linf, l2, l2rms"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"step_size": -1.0}, "step_size is -1.0"),
        ({"tols": [0.0]}, "tols is 0.0"),
        ({"budget": "huge"}, "budget is 'huge', but must be one of: quick, full"),
        ({"gradient": "magic"}, "published gradient is 'magic'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation": np.zeros((2, 5, 5, 1))}, r"validation images have shape \(5, 5, 1\)"),
        ({"x": np.zeros((12, 5, 5, 1))}, r"of shape \(5, 5, 1\), but the model takes \(4, 4, 1\)"),
        ({"x": np.full((12, 4, 4, 1), 255.0)}, "must stay in"),
        ({"y": np.full(12, 7)}, "a label of x and y is 7"),
        ({"y": np.zeros(3, int)}, r"labels have shape \(3,\)"),
        ({"model": lambda x: x}, "must be a Keras model"),
    ],
)
def test_a_mistake_is_named_before_anything_is_computed(data, tmp_path, changed, named):
    given = {"model": linear(), "x": data[0], "y": data[1], "folder": tmp_path, "eps": 0.1, **changed}
    with pytest.raises(UsageError, match=named):
        ta.reports.diagnose(**given)
    assert not list(tmp_path.iterdir())


def test_another_page_is_left_alone(data, tmp_path):
    (tmp_path / "index.html").write_text("my home page")
    with pytest.raises(RunError, match="index.html"):
        ta.reports.diagnose(linear(), *data, tmp_path, eps=0.1)
    assert (tmp_path / "index.html").read_text() == "my home page"


def test_fixed_steps_have_a_published_gradient_too(data, tmp_path, monkeypatch):
    """No tolerance changes such a model, but how it is differentiated matters."""
    image = keras.Input((4, 4, 1))
    block = ta.layers.ODEBlock(lambda t, h: -h, solver="euler")
    model = keras.Model(image, keras.layers.Dense(CLASSES)(block(keras.layers.Flatten()(image))))
    shown = {}
    found = types.SimpleNamespace(tol=None)
    monkeypatch.setattr(diagnose.procedure, "run", lambda *a, **k: [found])
    monkeypatch.setattr(diagnose.writer, "write", lambda folder, found, settings, *a: shown.update(settings))
    protocol = diagnose.Protocol("linf", 0.1, 0.025, gradient="adjoint")
    images = diagnose.Images(*data, data[0])
    diagnose.carry_out(model, images, protocol, tmp_path, digest="", budget="quick", tols=[])
    assert shown["published gradient"] == "adjoint"


@pytest.mark.parametrize("options", [{"tols": 0.1}, {"tols": "0.1"}, {"folder": None}, {"folder": 3}])
def test_an_argument_of_another_kind_is_one_line(data, tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(UsageError, match=f"{name} is {value!r}, but must be"):
        ta.reports.diagnose(linear(), *data, **{"folder": tmp_path, "eps": 0.02, **options})
