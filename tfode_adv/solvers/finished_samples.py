"""Where a finished sample leaves the batch: the others go on in a smaller one."""

import tensorflow as tf

from tfode_adv.solvers.loop_state import Batch

# A batch is made smaller in units of an eighth of its first size: few enough sizes that the kernels
# specialised to each are reused, small enough that little work is wasted on finished samples.
UNITS = 8


def without_finished(batch: Batch, unit: tf.Tensor, together: bool | tf.Tensor) -> Batch:
    """Leaves finished samples out once they fill a unit of the batch; a few stay to keep sizes few.

    Args:
        unit: see `UNITS`.
        together: whether none can be left out.
    """
    if together is True:
        return batch
    active = tf.reduce_sum(tf.cast(batch.active, tf.int32))
    size = (active + (unit - 1)) // unit * unit

    def smaller() -> Batch:
        positions = tf.argsort(tf.cast(~batch.active, tf.int32), stable=True)[:size]
        # Their order is kept so that a sample's neighbours do not change places.
        positions = tf.sort(positions)
        return tf.nest.map_structure(lambda x: tf.gather(x, positions), batch)

    fewer = (size < tf.size(batch.t)) & (active > 0) & ~tf.convert_to_tensor(together)
    return tf.cond(fewer, smaller, lambda: batch)
