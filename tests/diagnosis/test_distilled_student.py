"""A student's gradients are those that a decision hides."""

import numpy as np

from tfode_adv.diagnosis import distilled_student


def test_a_student_of_decisions_points_the_way_the_decisions_turn():
    rng = np.random.default_rng(0)
    slope = np.zeros((8, 8, 1))
    slope[:4], slope[4:] = 1.0, -1.0

    def decide(x):
        score = ((x - 0.5) * slope).sum((1, 2, 3))
        return np.eye(2, dtype=np.float32)[(score > 0).astype(int)]

    x = rng.uniform(0.3, 0.7, (24, 8, 8, 1)).astype(np.float32)
    taught = distilled_student.distil(decide, x, norm="linf", eps=0.2)
    moved = np.clip(x + 0.2 * slope, 0, 1).astype(np.float32)
    back = np.clip(x - 0.2 * slope, 0, 1).astype(np.float32)
    assert (np.asarray(taught(moved)).argmax(-1) == 1).mean() > 0.9
    assert (np.asarray(taught(back)).argmax(-1) == 0).mean() > 0.9
