"""An upper bound on robust accuracy by an attack of its own: none of the package's attacks is used.

PGD of 40 steps on the cross-entropy, the margin and every target's margin, along the gradient of a planted model's
smooth twin where it has one; each iterate is judged by the model itself, a randomised one by most of 15 runs, and where
these say that it is turned by most of 201 others: of 280 looks some are lucky.
"""

from typing import Any

import numpy as np
import tensorflow as tf

STEPS = 40
SECOND_LOOK = 201


def robust(planted: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images [N] are classified correctly, and which still are after the attack."""
    model = tf.function(lambda z: tf.cast(planted.model(z, training=False), tf.float32), reduce_retracing=True)
    twin = planted.twin or (lambda z: tf.cast(planted.model(z, training=False), tf.float32))
    labels, kind, eps = tf.constant(y), planted.norm, planted.eps

    def judge(z, runs=15):
        runs = runs if planted.random else 1
        return np.mean([np.asarray(model(z)).argmax(-1) == y for _ in range(runs)], 0) > 0.5

    def fallen(z, alive):
        wrong = alive & ~judge(z)
        return wrong & ~judge(z, SECOND_LOOK) if planted.random and wrong.any() else wrong

    @tf.function(autograph=False, reduce_retracing=True)
    def gradient(z, which, target):
        with tf.GradientTape() as tape:
            tape.watch(z)
            logits = twin(z)
            hot = tf.one_hot(labels, logits.shape[-1])
            own = tf.reduce_sum(hot * logits, -1)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            rival = tf.reduce_max(logits - 1e9 * hot, -1) - own
            aimed = tf.gather(logits, target, axis=-1) - own
            loss = tf.where(which == 0, entropy, tf.where(which == 1, rival, aimed))
        return tape.gradient(loss, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def size(v):
        return np.sqrt((v**2).sum((1, 2, 3), keepdims=True)) + 1e-12

    def inside(d):
        d = np.clip(d, -eps, eps) if kind == "linf" else d * np.minimum(1, eps / size(d))
        return np.clip(x + d, 0, 1).astype(np.float32)

    clean = judge(tf.constant(x))
    alive, rng = clean.copy(), np.random.default_rng(1)
    classes = model(tf.constant(x[:1])).shape[-1]
    runs = [(0, 0), (1, 0), (0, 0), (1, 0), *((2, target) for target in range(classes))]
    for number, (which, target) in enumerate(runs):
        z = inside(rng.uniform(-eps, eps, x.shape)) if number > 1 else x
        for step in range(STEPS if alive.any() else 0):
            slope = gradient(tf.constant(z), tf.constant(which), tf.constant(target)).numpy()
            length = eps * (0.25 if step < STEPS // 2 else 0.06)
            z = inside(z + length * (np.sign(slope) if kind == "linf" else slope / size(slope)) - x)
            if step % 2 or step == STEPS - 1:
                alive &= ~fallen(tf.constant(z), alive)
    return clean, alive
