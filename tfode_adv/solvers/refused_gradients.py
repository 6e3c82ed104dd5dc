"""What a solve has no gradient to, although a tape follows it."""

from typing import Any

import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.tensorflow_internals import could_record, is_followed


def refuse_followed(**settings: Any) -> None:
    """Checks that no tape that is recording follows times, tolerances or step sizes: their gradient would be None.

    Args:
        **settings: by name, each a number, a tensor, a variable or a nested structure of them.

    Raises:
        UsageError: naming the first one that a tape follows.
    """
    if not could_record():
        return
    for name, value in settings.items():
        for each in tf.nest.flatten(value):
            if not (tf.is_tensor(each) or hasattr(each, "assign")):
                continue
            # A variable is followed from its reading on.
            if is_followed([tf.convert_to_tensor(each)]):
                raise UsageError(
                    f"a GradientTape follows {name}, but a solve has no gradient to it: hand over "
                    f"tf.stop_gradient({name}), or a variable with trainable=False"
                )
