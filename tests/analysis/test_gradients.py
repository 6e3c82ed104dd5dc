import numpy as np

from tfode_adv.analysis import gradients


def test_cross_entropy_keeps_its_precision_far_below_one():
    logits, y = np.array([[60.0, 0.0], [0.0, 60.0], [1e4, 0.0]]), np.array([0, 0, 0])
    losses = gradients.exact_cross_entropy(logits, y)
    np.testing.assert_allclose(losses, [np.exp(-60), 60, 0], rtol=1e-12)


def test_cosine_of_what_has_no_direction():
    a = np.array([[1.0, 0], [0, 0], [np.nan, 1], [0, 0]])
    b = np.array([[2.0, 0], [1, 0], [1, 1], [0, 0]])
    np.testing.assert_allclose(gradients.cosine(a, b), [1, 0, 0, 0])
    np.testing.assert_allclose(gradients.cosine(a, b, both_zero=1.0), [1, 0, 0, 1])
