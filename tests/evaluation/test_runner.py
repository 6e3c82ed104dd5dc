"""The grid on a subject of plain numpy: what is computed, when, and what a kill leaves."""

import dataclasses
import types

import numpy as np
import pytest

from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Cell, cells
from tfode_adv.evaluation.runner import evaluate, forget, in_order
from tfode_adv.evaluation.shards import Shard

CLEAN = Configuration("abc", "toy", tol=0.1, solver="dopri5")
PGD = dataclasses.replace(CLEAN, attack="pgd", norm="linf", eps=0.3, gradient="backprop")


class Toy:
    """Two classes, told apart by an image's first pixel; the attack moves it by eps."""

    def __init__(self, die_at=None):
        self.predicted, self.attacked, self.indices, self.die_at = [], [], [], die_at

    def predict(self, configuration, images):
        self.predicted.append((configuration, len(images)))
        first = images[:, 0, 0, 0]
        return np.stack([0.5 - first, first - 0.5], -1), np.full(len(images), 14)

    def attack(self, configuration, images, labels, indices, progress):
        if self.die_at is not None and len(self.attacked) == self.die_at:
            raise KeyboardInterrupt
        self.attacked.append((configuration, len(images)))
        towards = np.where(labels == 1, -1.0, 1.0)[:, None, None, None].astype(np.float32)
        x_adv = np.clip(images + configuration.eps * towards, 0, 1).astype(np.float32)
        counts = np.full(len(images), 10)
        self.indices += indices.tolist()
        progress(2 * len(images))
        return types.SimpleNamespace(
            x_adv=x_adv, distance=np.full(len(images), configuration.eps), queries=counts, gradients=counts
        )


@pytest.fixture
def data():
    images = np.random.default_rng(0).random((20, 2, 2, 1), np.float32)
    labels = (images[:, 0, 0, 0] > 0.5).astype(np.int64)
    labels[4] = 1 - labels[4]
    return images, labels


def run(subject, data, configurations, folder, **options):
    return evaluate(subject, *data, configurations, folder, batch_size=6, **options)


def test_records_say_what_happened(tmp_path, data):
    images, labels = data
    run(Toy(), data, [PGD], tmp_path)
    records = Cell.of(tmp_path, PGD).records()
    assert list(records) == list(range(20))
    for index, record in records.items():
        first = float(images[index, 0, 0, 0])
        assert record.label == labels[index] and record.clean == int(first > 0.5)
        assert record.success == (record.correct and abs(first - 0.5) < 0.3)
        assert record.margin_clean == pytest.approx(2 * abs(first - 0.5) * (1 if record.correct else -1))
        assert (record.queries, record.distance) == ((10, 0.3) if record.correct else (0, 0.0))
    assert not records[4].correct and records[4].adversarial == records[4].clean


def test_misclassified_images_are_not_attacked_and_the_clean_pass_is_shared(tmp_path, data):
    subject = Toy()
    run(subject, data, [PGD, dataclasses.replace(PGD, eps=0.1)], tmp_path)
    assert sum(count for _, count in subject.attacked) == 2 * 19
    assert subject.indices == 2 * [index for index in range(20) if index != 4]
    assert sum(count for cell, count in subject.predicted if cell == CLEAN) == 20


def test_a_finished_cell_is_never_computed_again(tmp_path, data):
    assert run(Toy(), data, [PGD], tmp_path) == 40
    subject = Toy()
    assert run(subject, data, [PGD], tmp_path) == 0
    assert subject.attacked == subject.predicted == []


def test_the_same_command_continues_after_a_kill(tmp_path, data):
    with pytest.raises(KeyboardInterrupt):
        run(Toy(die_at=1), data, [PGD], tmp_path / "killed")
    (path,) = Cell.of(tmp_path / "killed", PGD).folder.glob("records-*.jsonl")
    path.write_bytes(path.read_bytes()[:-3])
    assert len(Cell.of(tmp_path / "killed", PGD).records()) == 5
    assert run(Toy(), data, [PGD], tmp_path / "killed") == 15
    run(Toy(), data, [PGD], tmp_path / "whole")
    assert Cell.of(tmp_path / "killed", PGD).records() == Cell.of(tmp_path / "whole", PGD).records()


def test_more_images_extend_a_cell(tmp_path, data):
    images, labels = data
    run(Toy(), (images[:7], labels[:7]), [PGD], tmp_path)
    assert run(Toy(), data, [PGD], tmp_path) == 26


def test_what_is_forgotten_is_computed_anew(tmp_path, data):
    run(Toy(), data, [PGD], tmp_path)
    subject = Toy()
    forget([PGD], tmp_path, range(20))
    assert run(subject, data, [PGD], tmp_path) == 40
    assert sum(count for _, count in subject.attacked) == 19
    assert len(Cell.of(tmp_path, PGD).records()) == 20


def test_forgetting_a_shard_leaves_the_others(tmp_path, data):
    for number in (1, 2):
        run(Toy(), data, [PGD], tmp_path, shard=Shard(number, 2))
    forget([PGD], tmp_path, Shard(1, 2).indices(20))
    assert run(Toy(), data, [PGD], tmp_path) == 20


def test_records_of_other_images_are_not_gone_on_with(tmp_path, data):
    images, labels = data
    run(Toy(), (images[:10], labels[:10]), [PGD], tmp_path)
    other = images.copy()
    other[7] += 1e-3
    for changed in ((other, labels), (images, np.where(np.arange(20) == 7, 1 - labels, labels))):
        with pytest.raises(RunError, match=r"image 7 of toy \(test\) has another checksum; --overwrite"):
            run(Toy(), changed, [PGD], tmp_path)
    assert run(Toy(), data, [PGD], tmp_path) == 20
    # The part that was changed is another's to do, and after --overwrite there is nothing left to differ.
    assert run(Toy(), (other, labels), [PGD], tmp_path, shard=Shard(1, 2)) == 0
    forget([PGD], tmp_path, range(20))
    assert run(Toy(), (other, labels), [PGD], tmp_path) == 40


def test_records_without_a_checksum_stay_valid(tmp_path, data):
    images, labels = data
    run(Toy(), data, [PGD], tmp_path)
    for cell in cells(tmp_path):
        records = [dataclasses.replace(record, checksum=None) for record in cell.records().values()]
        cell.discard(range(20))
        cell.append(records)
    assert run(Toy(), (images / 2, labels), [PGD], tmp_path, keep_images=0) == 0


def test_pictures_of_what_is_forgotten_go_too(tmp_path, data):
    run(Toy(), data, [PGD], tmp_path, keep_images=5)
    forget([PGD], tmp_path, range(1, 20))
    assert list(Cell.of(tmp_path, PGD).images()) == [0]
    run(Toy(), data, [PGD], tmp_path, keep_images=2)
    assert list(Cell.of(tmp_path, PGD).images()) == [0, 1]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_together_equal_the_whole(tmp_path, data, count):
    for number in range(1, count + 1):
        run(Toy(), data, [PGD], tmp_path / "shards", shard=Shard(number, count))
    run(Toy(), data, [PGD], tmp_path / "whole")
    for cell in cells(tmp_path / "whole"):
        assert Cell.of(tmp_path / "shards", cell.configuration).records() == cell.records()
        assert Cell.of(tmp_path / "shards", cell.configuration).images().keys() == cell.images().keys()


def test_a_shard_splits_into_shards_that_cover_it():
    parts = Shard(2, 3).split(4)
    assert {part.count for part in parts} == {12}
    assert sorted(i for part in parts for i in part.indices(100)) == list(Shard(2, 3).indices(100))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_names_no_part_is_refused(text):
    with pytest.raises(UsageError, match="shard is"):
        Shard.parse(text)


def test_a_handful_of_images_is_kept(tmp_path, data):
    images, _ = data
    run(Toy(), data, [PGD], tmp_path, keep_images=5)
    kept = Cell.of(tmp_path, PGD).images()
    assert list(kept) == list(range(5))
    np.testing.assert_array_equal(kept[4][1], images[4])
    assert abs(kept[0][1] - images[0]).max() == pytest.approx(0.3)


def test_more_pictures_are_made_of_a_finished_cell(tmp_path, data):
    run(Toy(), data, [PGD], tmp_path, keep_images=2)
    assert run(Toy(), data, [PGD], tmp_path, keep_images=7) == 5
    cell = Cell.of(tmp_path, PGD)
    assert len(cell.images()) == 7 and len(cell.records()) == 20


def test_order_groups_by_solver_setting_and_drops_repeats():
    other = dataclasses.replace(PGD, tol=1.0)
    assert in_order([PGD, other, PGD, CLEAN]) == [CLEAN, PGD, other.clean, other]


def test_logits_that_are_not_finite_are_an_error(tmp_path, data):
    subject = Toy()
    subject.predict = lambda configuration, images: (np.full((len(images), 2), np.nan), np.zeros(len(images)))
    with pytest.raises(RunError, match="not finite for 6 of 6"):
        run(subject, data, [PGD], tmp_path)


def test_the_bar_ends_where_the_work_does(tmp_path, data):
    class Bar:
        moved = 0

        def __init__(self, total, desc, unit):
            Bar.total = total

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def set_postfix(self, **values):
            pass

        def update(self, count):
            assert count >= 0
            Bar.moved += count

    run(Toy(), data, [PGD], tmp_path, bar=Bar)
    assert Bar.moved == Bar.total == 40
