"""A program of this package as the child of another: `python -P -m tfode_adv.cli.child NAME FLAGS`.

It is asked to end, as by SIGTERM, when the process that started it has ended: however that was, the pipe at this
one's standard input is closed then.
"""

import importlib
import os
import signal
import sys
import threading


def _leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Runs the program that the command line names."""
    name = sys.argv[1]
    sys.argv[:2] = [name]
    # Not through sys.stdin, whose lock Python wants when it leaves.
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    importlib.import_module(f"tfode_adv.cli.{name}").run()


if __name__ == "__main__":
    main()
