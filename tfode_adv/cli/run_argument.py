"""The run that a program is asked for: a folder, or a network of the zoo as zoo:NAME."""

from tfode_adv import zoo
from tfode_adv.errors import check_choice
from tfode_adv.files import PathLike
from tfode_adv.run_folder import Run

PREFIX = "zoo:"


def located(text: str) -> PathLike:
    """The folder `text`; of `zoo:NAME`, that network's under runs/zoo/, made if it is not there.

    Raises:
        UsageError: for a network that is not there; the message names the choices.
        RunError: if a network's folder cannot be written.
    """
    if not text.startswith(PREFIX):
        return text
    check_choice("run", text, [PREFIX + name for name in zoo.available()])
    return zoo.as_run(text.removeprefix(PREFIX)).path


def opened(text: str) -> Run:
    """The run that is `located` by `text`.

    Raises:
        UsageError: for a network that is not there; the message names the choices.
        RunError: if the folder is no run, or cannot be written.
    """
    return Run.open(located(text))
