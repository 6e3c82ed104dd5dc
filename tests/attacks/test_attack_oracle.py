"""The published attack on the papers' own model: Foolbox 1.8's basic iterative method on OON."""

import numpy as np
import pytest

import tfode_adv as ta


@pytest.fixture(scope="module")
def oracle(shared):
    return dict(np.load(shared / "oracles" / "attack_bim_oon_mnist.npz"))


@pytest.fixture(scope="module")
def oon(shared):
    model = ta.models.build("oon", input_shape=(28, 28, 1), num_classes=10, filters=64)
    ta.interop.load_torch_state(model, shared / "oracles" / "model_oon_mnist.npz")
    return model


def bim(oracle, model, tol, norm, copies=1, **hyperparameters):
    """Returns the images, our result, and the published program's success and x_adv, in NHWC.

    All copies of the images but the first have noise of 1e-7 on them.
    """
    key = f"{tol}/{norm}/0.1/0.05"
    x, theirs = (np.tile(oracle[name].transpose(0, 2, 3, 1), (copies, 1, 1, 1)) for name in ("x", f"{key}/x_adv"))
    noise = 1e-7 * np.random.RandomState(0).uniform(-1, 1, x.shape)
    noise[: len(oracle["x"])] = 0
    x = np.clip(x + noise, 0, 1).astype(np.float32)
    attack = ta.attacks.BIM(norm=norm, eps=0.1, step_size=0.05, steps=10, **hyperparameters)
    return x, attack(model, x, np.tile(oracle[f"{tol}/y"], copies)), oracle[f"{key}/success"], theirs


@pytest.mark.parametrize("norm", ["linf", "l2rms"])
def test_bim_is_the_published_attack(oracle, oon, norm):
    """On the program's own gradient, which goes through the step sizes; to rounding.

    The weights are random: 1e-7 added to the pixels, about their rounding, and an image's ten steps may end in
    another fifth of the pixels. So each image is attacked as it is and with seven draws of such noise, and
    the program's result must be among ours (l2rms: of one image of the six it is not, 0.992 at best).
    """
    ta.models.set_solver(oon, tol=1e-3, gradient="backprop_steps")
    x, ours, success, theirs = bim(oracle, oon, "0.001", norm, copies=8)
    np.testing.assert_array_equal(ours.success.reshape(8, -1), np.tile(success, (8, 1)))
    if norm == "linf":
        agreement = (np.abs(ours.x_adv - theirs) < 1e-4).mean((1, 2, 3))
        assert agreement.reshape(8, -1).max(0).min() >= 0.99
        assert agreement.mean() > 0.9
    else:
        agreement = _cosine(ours.x_adv - x, theirs - x)
        assert np.sort(agreement.reshape(8, -1).max(0))[1:].min() > 0.999
        assert agreement.min() > 0.95


def test_the_blocks_own_gradient_turns_the_same_images(oracle, oon):
    ta.models.set_solver(oon, tol=1.0, gradient="backprop")
    _, ours, success, _ = bim(oracle, oon, "1", "l2rms")
    np.testing.assert_array_equal(ours.success, success)
    through = ta.attacks.Through(gradient="adjoint")
    adjoint = bim(oracle, oon, "1", "l2rms", source=through)[1]
    print("turned at tau = 1: backprop", ours.success.sum(), "adjoint", adjoint.success.sum())
    assert adjoint.success.sum() <= ours.success.sum()
    assert adjoint.gradients.sum() > ours.gradients.sum()


def _cosine(a, b):
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
