"""Evidence packs: what is written holds when it is computed again, and what was changed is named."""

import dataclasses
import json
import pickle

import keras
import numpy as np
import pytest

from tfode_adv import layers
from tfode_adv.errors import RunError
from tfode_adv.evaluation import evidence
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.evidence import Pack, file_of, weights_sha256
from tfode_adv.evaluation.recomputation import check
from tfode_adv.evaluation.records import NO_ANSWER, Cell
from tfode_adv.evaluation.runner import evaluate
from tfode_adv.evaluation.shards import Shard
from tfode_adv.evaluation.subject import KerasSubject

COUNT = 12
FGSM = Configuration(
    "abc", "toy", solver="euler", num_steps=1, attack="fgsm", norm="linf", eps=0.1, gradient="backprop", seed=0
)


def grows(t, h):
    return h * np.float32([1.0, 0.0])


def classifier(dynamics=grows):
    """Two pixels: the first grows, by a factor of two in one step and of e in many."""
    image = keras.Input((1, 2, 1))
    state = keras.layers.Rescaling(4.0)(keras.layers.Flatten()(image))
    logits = layers.ODEBlock(dynamics, solver="euler", num_steps=16)(state)
    return keras.Model(image, keras.layers.Dense(2, kernel_initializer="identity")(logits))


@pytest.fixture(scope="module")
def subject():
    return KerasSubject(classifier(), batch_size=8)


@pytest.fixture(scope="module")
def images():
    first = np.linspace(0.2, 0.3, COUNT)
    return np.stack([first, 2 * first + np.linspace(-0.2, 0.25, COUNT)], -1).astype(np.float32).reshape(-1, 1, 2, 1)


def packed(subject, images, folder, configuration=FGSM, shards=("1/1",)):
    labels = np.arange(len(images)) % 2
    for shard in shards:
        evaluate(subject, images, labels, [configuration], folder, shard=Shard.parse(shard), keep_images=len(images))
    cell = Cell.of(folder, configuration)
    return Pack.of(cell, range(len(images)), weights_sha256(subject.model.get_weights()))


@pytest.fixture
def pack(subject, images, tmp_path):
    return packed(subject, images, tmp_path / "run")


@pytest.fixture
def path(pack, tmp_path):
    pack.write(tmp_path / "pack.npz")
    return tmp_path / "pack.npz"


def rewritten(path, sealed=False, about=None, **columns):
    """The pack at `path` with some of it changed, and perhaps sealed anew."""
    pack = Pack.read(path)
    about = pack.about if about is None else json.dumps(json.loads(pack.about) | about, sort_keys=True)
    columns = {**pack.columns, **columns}
    seal = evidence._sealed(about, columns) if sealed else pack.seal
    Pack(about, columns, seal).write(path)
    return Pack.read(path)


def changed(column, row, value):
    found = column.copy()
    found[row] = value
    return found


def test_what_was_written_holds(subject, pack, path, images):
    read = Pack.read(path)
    assert read.configuration == FGSM and read.seal == pack.seal and len(read) == COUNT
    np.testing.assert_array_equal(read["clean"], images)
    assert read["adversarial"].dtype == np.float32 and read["success"].any() and not read["success"].all()
    findings = check(read, subject)
    assert findings.holds and not findings.undecided
    # The images lie where one step and sixteen say otherwise: what is computed is the pack's own solve.
    other = dataclasses.replace(FGSM, num_steps=16)
    assert not check(rewritten(path, about={"configuration": other.as_dict()}, sealed=True), subject).holds


@pytest.mark.parametrize("name", ["clean", "adversarial"])
def test_a_pixel_that_was_moved_is_found(subject, pack, path, name):
    moved = changed(pack[name], 7, np.nextafter(pack[name][7], 1, dtype=np.float32))
    findings = check(rewritten(path, **{name: moved}), subject)
    assert not findings.holds and findings.rows == {7: [f"its {name} image was changed: another SHA-256"]}
    # Who seals an image of another content is told by what it is.
    moved = changed(pack[name], 7, 2.0)
    digests = changed(pack[f"{name}_sha256"], 7, evidence.sha256_of(moved[7]))
    findings = check(rewritten(path, sealed=True, **{name: moved, f"{name}_sha256": digests}), subject)
    assert list(findings.rows) == [7] and f"its {name} image is not in [0, 1]" in findings.rows[7]
    assert any("beyond eps 0.1" in reason for reason in findings.rows[7])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_found(subject, pack, path, value):
    moved = {name: changed(pack[name], 7, value) for name in ("clean", "adversarial")}
    findings = check(rewritten(path, **moved), subject)
    assert list(findings.rows) == [7] and "its adversarial image is not in [0, 1]" in findings.rows[7]


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("label", 5, "success True recorded of label 5"),
        ("clean_prediction", 0, "clean prediction 1, recorded 0"),
        ("adversarial_prediction", 1, "adversarial prediction 0, recorded 1"),
        ("adversarial_prediction", NO_ANSWER, "adversarial prediction 0, recorded no answer"),
        ("success", False, "success False recorded of label 1, predictions 1 and 0"),
        ("distance", 0.05, "distance 0.1, recorded 0.05"),
        ("distance", np.nan, "distance 0.1, recorded nan"),
    ],
)
def test_a_value_that_was_changed_is_found(subject, pack, path, name, value, words):
    row = next(row for row in np.flatnonzero(pack["success"]) if pack["label"][row] == 1)
    for sealed in (False, True):
        findings = check(rewritten(path, sealed, **{name: changed(pack[name], row, value)}), subject)
        assert findings.changed is not sealed and not findings.holds
        assert list(findings.rows) == [row] and any(words in reason for reason in findings.rows[row])
        assert any("seal is broken" in line for line in findings.lines()) is not sealed


def test_a_smaller_radius_or_another_norm_is_found(subject, path):
    for change, words in ({"eps": 0.09}, "beyond eps 0.09"), ({"norm": "l2"}, "distance 0.141421, recorded 0.1"):
        configuration = dataclasses.replace(FGSM, **change).as_dict()
        findings = check(rewritten(path, about={"configuration": configuration}), subject)
        assert findings.changed and any(words in reason for why in findings.rows.values() for reason in why)


def test_another_model_is_refused(subject, pack):
    other = classifier()
    other.set_weights([array * 1.001 for array in subject.model.get_weights()])
    with pytest.raises(RunError, match="weights have SHA-256 .*, but those attacked had"):
        check(pack, KerasSubject(other))
    assert weights_sha256(classifier().get_weights()) == pack.weights


def test_a_model_that_draws_is_refused(subject, pack):
    class Drawn(KerasSubject):
        def predict(self, configuration, images):
            logits, nfe = super().predict(configuration, images)
            return logits + np.random.default_rng().normal(size=logits.shape), nfe

    with pytest.raises(RunError, match="answers the same images differently"):
        check(pack, Drawn(subject.model))
    drawn = dataclasses.replace(FGSM, random_tol=(0.1, 1.0)).as_dict()
    with pytest.raises(RunError, match="drawn anew"):
        check(dataclasses.replace(pack, about=json.dumps(json.loads(pack.about) | {"configuration": drawn})), subject)


def test_what_rounding_alone_can_turn_is_undecided(subject, images, tmp_path):
    close = images.copy()
    # In one step the logits are twice the first pixel and the second.
    close[:3, 0, :, 0] = [[0.25, 0.5001], [0.25, 0.5], [0.25, 0.51]]
    pack = packed(subject, close, tmp_path)
    columns = {**pack.columns, "clean_prediction": pack["clean_prediction"].copy()}
    columns["clean_prediction"][:3] = 1 - columns["clean_prediction"][:3]
    findings = check(dataclasses.replace(pack, columns=columns), subject)
    assert {0, 1} == set(findings.undecided) and 2 in findings.rows
    assert "image 0 is undecided: clean prediction 1, recorded 0" in findings.lines()


def test_an_image_without_an_answer_holds_as_one(tmp_path):
    image = keras.Input((1, 2, 1))
    # There is no logarithm from 0.5 on.
    block = layers.ODEBlock(lambda t, h: -keras.ops.log(0.5 - h), solver="euler")
    subject = KerasSubject(keras.Model(image, block(keras.layers.Flatten()(image))))
    far = dataclasses.replace(FGSM, eps=0.45)
    pack = packed(subject, np.float32([[0.2, 0.1], [0.01, 0.02]]).reshape(2, 1, 2, 1), tmp_path, far)
    assert pack["adversarial_prediction"].tolist() == [NO_ANSWER, 0] and pack["success"].all()
    assert check(pack, subject).holds


def test_shards_and_a_resumed_evaluation_give_the_same_pack(subject, images, pack, tmp_path):
    shards = packed(subject, images, tmp_path / "shards", shards=("2/3", "1/3", "3/3"))
    evaluate(subject, images, np.arange(COUNT) % 2, [FGSM], tmp_path / "resumed", keep_images=2)
    resumed = packed(subject, images, tmp_path / "resumed")
    for other in (shards, resumed):
        assert other.seal == pack.seal
        np.testing.assert_array_equal(other["adversarial"], pack["adversarial"])


def test_images_that_were_not_kept_are_refused(subject, images, tmp_path):
    evaluate(subject, images, np.arange(COUNT) % 2, [FGSM], tmp_path, keep_images=3)
    cell = Cell.of(tmp_path, FGSM)
    with pytest.raises(RunError, match="lacks 9 of 12 images, the first 3: bin/evaluate --save_adversarial"):
        Pack.of(cell, range(COUNT), "")
    assert file_of(cell, 200, Shard()).name == "adversarial-200.npz"
    assert file_of(cell, 200, Shard(2, 3)).name == "adversarial-200-2of3.npz"


def _objects(path):
    columns = {**Pack.read(path).columns, "distance": np.array([None] * COUNT)}
    with open(path, "wb") as file:
        np.savez(file, about="{}", seal="", **columns)


def _columns(change):
    def write(path):
        pack = Pack.read(path)
        with open(path, "wb") as file:
            np.savez(file, about=pack.about, seal="", **{**pack.columns, **change(pack)})

    return write


def _without_rows(pack):
    return {name: array[:0] for name, array in pack.columns.items()}


def _about(**change):
    def write(path):
        pack = Pack.read(path)
        with open(path, "wb") as file:
            np.savez(file, about=json.dumps(json.loads(pack.about) | change), seal=pack.seal, **pack.columns)

    return write


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "no pack"),
        (lambda path: path.write_bytes(b""), "no pack"),
        (lambda path: path.write_bytes(pickle.dumps({"about": 1})), "no pack"),
        (lambda path: np.savez(path, image=np.zeros(3)), "no pack .*index.npy"),
        (_objects, "no pack .*Object arrays cannot be loaded"),
        (_columns(_without_rows), "no pack .*indices"),
        (_columns(lambda pack: {"label": pack["label"] + 0.5}), "label is an array of float64"),
        (
            _columns(lambda pack: {"success": pack["success"][1:]}),
            r"success is an array of bool \(11,\), beside \(12,\)",
        ),
        (_columns(lambda pack: {"clean": pack["clean"][..., 0]}), r"clean is an array of float32 \(12, 1, 2\)"),
        (_columns(lambda pack: {"clean": pack["clean"][:, :, :1]}), "of different shapes"),
        (_columns(lambda pack: {"index": pack["index"][::-1]}), "indices are not in order"),
        (_about(format=2), "its format is 2"),
        (_about(configuration={"model": "a"}), "dataset"),
        (_about(configuration={**FGSM.as_dict(), "norm": "l7"}), "linf, l2, l2rms"),
        (_about(configuration={**FGSM.as_dict(), "attack": "\x1b[31m"}), r"attack is '\\x1b\[31m'"),
        (_about(configuration=FGSM.clean.as_dict()), "norm is None"),
        (_about(weights=7), "weights"),
    ],
)
def test_a_file_that_is_no_pack_is_one_line(path, damage, words):
    damage(path)
    with pytest.raises(RunError, match=f"pack.npz'.*({words})") as caught:
        Pack.read(path)
    assert "\n" not in str(caught.value)
