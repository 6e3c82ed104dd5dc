"""TensorFlow's notes on start-up, kept from burying the one line that a program has to say."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back what native code writes to standard error, and lets it out if the body fails.

    TensorFlow 2.21 writes its notes before it has read the level that should silence them. A level that
    the user has set turns this off.
    """
    if os.environ.setdefault(_LEVEL, "2") != "2":
        yield
        return
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (OSError, AttributeError):
        # A process without a standard error has nothing to hold back.
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                held.seek(0)
                os.write(2, held.read())
