"""Random crops, flips, colour jitter and noise, each image's drawn from (seed, epoch, image) alone."""

import tensorflow as tf

from tfode_adv.data.catalog import AUGMENTATIONS
from tfode_adv.errors import UsageError, check_choice

PADDING = 4
HUE = 0.05
SATURATION = 0.05
# Standard deviations, in 255ths.
NOISE = (50.0, 75.0, 100.0)


def check(augment: str, image_shape: tuple[int, int, int]) -> str:
    """Returns `augment`, a name in `AUGMENTATIONS`.

    Raises:
        UsageError: if there is no such augmentation, or it needs colours that the images lack.
    """
    check_choice("augment", augment, AUGMENTATIONS)
    if "jitter" in augment and image_shape[-1] != 3:
        raise UsageError(f"augment {augment!r} needs images of 3 channels, these have {image_shape[-1]}")
    return augment


def augment_image(image: tf.Tensor, augment: str, seed: tf.Tensor) -> tf.Tensor:
    """One augmented image.

    Crop, flip and jitter as in the papers' CIFAR-10 recipe: a random crop of the image padded by 4 zeros on each side,
    a horizontal flip, hue shifted by up to 0.05 of a turn and saturation scaled by up to 5 %. Noise as in the program
    of TisODE (Yan et al., ICLR 2020): half the images get a normal one, its standard deviation 50, 75 or 100 parts in
    255, and are clipped to [0, 1].

    Args:
        image: [H, W, C], float32 in [0, 1].
        augment: a name in `AUGMENTATIONS`.
        seed: [2], integers; the same seed gives the same image.
    """
    if augment == "none":
        return image
    if augment == "noise":
        return _noisy(image, seed)
    shape = tf.shape(image)
    crop, flip, hue, saturation = tf.unstack(tf.random.split(seed, 4))
    padded = tf.pad(image, [[PADDING, PADDING], [PADDING, PADDING], [0, 0]])
    image = tf.image.stateless_random_crop(padded, shape, crop)
    image = tf.image.stateless_random_flip_left_right(image, flip)
    if "jitter" in augment:
        image = tf.image.stateless_random_hue(image, HUE, hue)
        image = tf.image.stateless_random_saturation(image, 1 - SATURATION, 1 + SATURATION, saturation)
        image = tf.clip_by_value(image, 0.0, 1.0)
    return image


def _noisy(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    whether, which, noise = tf.unstack(tf.random.split(seed, 3))
    chosen = tf.random.stateless_uniform([], which, 0, len(NOISE), tf.int32)
    deviation = tf.where(tf.random.stateless_uniform([], whether) < 0.5, tf.gather(NOISE, chosen) / 255.0, 0.0)
    return tf.clip_by_value(image + deviation * tf.random.stateless_normal(tf.shape(image), noise), 0.0, 1.0)
