"""Queries and gradients are what the model was really asked."""

import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import attacks


class Asked:
    """A model that counts the images it is asked about, wherever it runs."""

    def __init__(self, model):
        self._model, self.rows = model, tf.Variable(0)

    def __call__(self, x):
        self.rows.assign_add(tf.shape(x)[0])
        return self._model(x)


def three(x):
    """Logits of three classes, of which the first wins on every image near to grey."""
    level = tf.reduce_mean(x, [1, 2, 3])
    return tf.stack([tf.ones_like(level), level, -level], -1)


GREY, LABEL = np.full((1, 6, 6, 1), 0.5, np.float32), np.zeros(1, np.int64)


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("pgd", {}),
        ("pgd", {"random_start": True, "restarts": 2}),
        ("pgd", {"steps": 0, "random_start": True}),
        ("pgd", {"steps": 0}),
        ("pgd", {"source": attacks.EOT(3)}),
        ("apgd_t", {"targets": 2}),
        ("fab", {"targets": 2}),
        ("fab", {"targets": None}),
        ("fab", {"targets": 1, "source": attacks.EOT(2)}),
        ("spsa", {"samples": 4, "estimates": 2}),
        ("square", {}),
        ("rays", {"restarts": 2}),
        ("cwlinf", {}),
        ("deepfool", {"norm": "linf"}),
        ("hopskipjump", {"norm": "linf", "steps": 1}),
    ],
)
def test_every_pass_is_counted(name, hyperparameters):
    if name in ("deepfool", "hopskipjump"):
        pytest.importorskip("foolbox")
    model = Asked(three)
    attack = attacks.get(name, **{"eps": 0.01, "steps": 3, "batch_size": 1, **hyperparameters})
    result = attack(model, GREY, LABEL)
    assert result.queries.tolist() == [int(model.rows)]


def test_an_image_already_wrong_was_looked_at_twice():
    model = Asked(three)
    result = attacks.PGD(eps=0.01, batch_size=1)(model, GREY, LABEL + 1)
    assert result.queries.tolist() == [int(model.rows)] == [2]


def test_a_transfer_asks_the_attacked_model_once_a_step():
    """Its gradients are the other model's, and as many as that one's source draws."""
    victim, other = Asked(three), Asked(three)
    source = attacks.Transfer(other, attacks.EOT(5))
    result = attacks.PGD(eps=0.01, steps=4, batch_size=1, source=source)(victim, GREY, LABEL)
    assert result.queries.tolist() == [int(victim.rows)] == [4 + 2]
    assert result.gradients.tolist() == [int(other.rows)] == [20]
    result = attacks.RayS(eps=0.01, steps=4, batch_size=1, source=source)(victim, GREY, LABEL)
    assert result.queries.tolist() == [int(victim.rows) - 6] == [1 + 1 + 4 + 1]
    assert result.gradients.tolist() == [int(other.rows) - 20] == [5]


def test_deepfool_counts_an_image_as_if_it_were_alone(linear):
    """Of these two images the second, nearer to the boundary, takes fewer steps; Foolbox runs both to the end."""
    pytest.importorskip("foolbox")

    def curved(x):
        return tf.stack([tf.zeros_like(x[:, 0, 0, 0]), 1.0 - tf.exp(-linear(x)[:, 1])], -1)

    x = np.concatenate([linear.x[:1], linear.x[:1] + linear.best("linf", 0.9 * linear.distance("linf"))])
    attack = attacks.get("deepfool", norm="linf")
    both = attack(curved, x, np.zeros(2, np.int64))
    alone = [attack(curved, x[i : i + 1], np.zeros(1, np.int64)) for i in range(2)]
    assert both.success.all()
    assert both.queries.tolist() == [int(one.queries[0]) for one in alone]
    # Besides the gradients: the clean pass, Foolbox's own first one and the verifying one.
    assert (both.queries == both.gradients + 3).all()
    assert both.queries[0] > both.queries[1]
