"""The number type that a model's layers compute in, by the names that the programs' flag has."""

import contextlib
from collections.abc import Iterator

PRECISIONS = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute in the type `name`, one of `PRECISIONS`; "none" is float32 throughout."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[name])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
