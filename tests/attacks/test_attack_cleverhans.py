"""The attacks on CleverHans' building blocks give CleverHans' results."""

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks import momentum_iterative_method as mim
from cleverhans.tf2.attacks import projected_gradient_descent as pgd
from cleverhans.tf2.attacks import spsa

from tfode_adv import attacks
from tfode_adv.attacks import norms, random_streams

CASES = [("linf", np.inf, 0.1), ("l2", 2, 1.0)]


@pytest.mark.parametrize(("norm", "order", "eps"), CASES)
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_is_projected_gradient_descent_bit_for_bit(classifier, victims, norm, order, eps, targeted):
    x, y = victims
    y = (y + 1) % 10 if targeted else y
    attack = attacks.PGD(
        norm=norm, eps=eps, step_size=eps / 4, steps=7, early_stop=False, targeted=targeted, batch_size=64
    )
    theirs = pgd.projected_gradient_descent(
        classifier,
        tf.constant(x),
        eps,
        eps / 4,
        7,
        order,
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(y),
        targeted=targeted,
    )
    np.testing.assert_array_equal(attack(classifier, x, y).x_adv, theirs.numpy())


def test_pgd_from_the_same_random_start_is_too(classifier, victims, monkeypatch):
    x, y = victims
    key = random_streams.fold(5, tf.range(len(x)), 0)
    start = norms.random_delta(random_streams.fold(key, 0), tf.constant(x), "linf", 0.1)
    monkeypatch.setattr(pgd, "random_lp_vector", lambda *args, **kwargs: start)
    theirs = pgd.projected_gradient_descent(
        classifier,
        tf.constant(x),
        0.1,
        0.02,
        5,
        np.inf,
        clip_min=0.0,
        clip_max=1.0,
        y=tf.constant(y),
        rand_init=True,
    )
    attack = attacks.PGD(eps=0.1, step_size=0.02, steps=5, random_start=True, early_stop=False, seed=5)
    np.testing.assert_array_equal(attack(classifier, x, y).x_adv, theirs.numpy())


@pytest.mark.parametrize(("norm", "order", "eps"), CASES)
def test_mim_is_momentum_iterative_method(classifier, victims, norm, order, eps):
    x, y = victims
    theirs = mim.momentum_iterative_method(
        classifier, tf.constant(x), eps, eps / 4, 7, order, 0.0, 1.0, y=tf.constant(y)
    )
    attack = attacks.MIM(norm=norm, eps=eps, step_size=eps / 4, steps=7, early_stop=False)
    np.testing.assert_array_equal(attack(classifier, x, y).x_adv, theirs.numpy())


class TheirSPSA(spsa.SPSAAdam):
    """CleverHans' optimiser as it would be if its constructor still worked, with the draws handed in."""

    def __init__(self, samples, draws):
        tf.optimizers.Adam.__init__(self, learning_rate=0.01)
        self.lr = 0.01
        self._delta = 0.01
        self._num_samples = samples // 2
        self._num_iters = 1
        self._draws = draws
        self._step = 0

    def _get_delta(self, x, delta):
        self._step += 1
        return delta * self._draws[self._step - 1]


def test_spsa_in_a_batch_is_cleverhans_loop_image_by_image(classifier, victims, monkeypatch):
    x, y = (part[:3] for part in victims)
    steps, samples, eps = 4, 16, 0.1
    ours = attacks.SPSA(eps=eps, steps=steps, samples=samples, early_stop=False, seed=3)(classifier, x, y)
    keys = random_streams.fold(3, tf.range(3), 0)
    starts = norms.random_delta(random_streams.fold(keys, 0), tf.constant(x), "linf", eps)
    for i in range(3):
        draws = [
            random_streams.signs(random_streams.fold(keys[i : i + 1], 1, step, 0), [samples // 2, *x.shape[1:]])[0]
            for step in range(steps)
        ]
        start, draws = starts[i : i + 1], tf.stack(draws)
        monkeypatch.setattr(spsa.tf.random, "uniform", lambda *args, start=start, **kwargs: start)
        # Their while_loop runs its body in Python when eager, so each step takes the next draw.
        adam = TheirSPSA(samples, draws)

        def loss(image, label):
            return -spsa.margin_logit_loss(classifier(image), label, nb_classes=10)

        theirs = spsa.projected_optimization(
            loss, tf.constant(x[i : i + 1]), tf.constant(y[i : i + 1]), eps, steps, adam, 0.0, 1.0
        )
        np.testing.assert_allclose(ours.x_adv[i : i + 1], theirs.numpy(), atol=1e-5)
