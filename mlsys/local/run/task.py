"""``python -m mlsys.local.run.task PROGRAM …``: one attempt at a task, as a process that does not outlive the twin.

The program runs in this process as if it had been started itself. Standard input is a pipe that only the twin holds:
when it ends, however the twin ended, so does everything that this attempt has started.
"""

import os
import runpy
import signal
import sys
import threading


def _end_with_twin(pipe: int) -> None:
    while os.read(pipe, 64):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the program that is named first, with the other arguments."""
    pipe = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the program's own standard input is empty, as in a container
    threading.Thread(target=_end_with_twin, args=(pipe,), daemon=True).start()
    program, sys.argv = sys.argv[1], sys.argv[1:]
    sys.path[0] = os.path.dirname(program)  # noqa: PTH120 - as Python does it for a script
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
