"""What comes before TensorFlow: is Keras on it, its notes, kept from burying the one line a program has to say, and
what makes its import short.
"""

import contextlib
import gc
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_QUIET = ("2", "3")

_OPTIONAL = ("matplotlib", "pandas", "sklearn")


def check_backend() -> None:
    """Refuses another Keras backend than TensorFlow, before an import fails deep inside of Keras.

    Raises:
        ImportError: naming the backend and where it is set.
    """
    keras = sys.modules.get("keras")
    home = pathlib.Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))
    if keras is not None and hasattr(keras, "config"):
        backend, where = keras.config.backend(), "Keras was imported with it"
    elif os.environ.get("KERAS_BACKEND"):
        backend, where = os.environ["KERAS_BACKEND"], "KERAS_BACKEND says so"
    else:
        where = f"{str(home / 'keras.json')!r} says so"
        try:
            backend = json.loads((home / "keras.json").read_text()).get("backend", "tensorflow")
        except (OSError, ValueError, AttributeError):
            return
    if backend != "tensorflow":
        raise ImportError(
            f"tfode_adv needs Keras on TensorFlow, but its backend is {backend!r} ({where}): set "
            "KERAS_BACKEND=tensorflow before Python starts"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back what native code writes to standard error, and lets it out if the body fails.

    TensorFlow 2.21 writes its notes before it has read the level that should silence them. A level
    below 2 that the user has set turns this off.
    """
    if os.environ.setdefault(_LEVEL, "2") not in _QUIET:
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
                with open(2, "wb", closefd=False) as error:
                    shutil.copyfileobj(held, error)


@contextlib.contextmanager
def short() -> Iterator[None]:
    """Imports in the body leave out what Keras imports wherever it is installed, for parts that no program uses, and
    what they make is not looked through for garbage again.

    Who asks for one of these packages afterwards has it. Keras's own parts on them (`keras.wrappers`, data frames as
    training data, `plot_image_gallery`) stay without it, so this is for a process that is a program's own.
    """
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    # What Python takes for a package that is not there.
    sys.modules.update(dict.fromkeys(hidden))
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        if collecting:
            gc.enable()
