"""The registry function in a process of its own, as Cloud Run serves it.

``python -m mlsys.local.function_host --source main.py --target register_model`` loads the function through
functions-framework, serves it on a free loopback port, prints that port, and ends when its standard input does: so it
dies with the process that started it, however that one ends and on any system.
"""

import argparse
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

_START_S = 60
_FIRST_RESTART_S, _LAST_RESTART_S = 0.2, 10.0


class FunctionHost:
    """Start the function when it is first wanted, and again when it died. Safe to use from several threads.

    Parameters
    ----------
    source
        The function's ``main.py``.
    env
        Environment variables on top of ours, which make the function talk to this twin.
    log
        File that gets what the function writes.
    target
        Name of the function in ``source``.
    """

    def __init__(self, source: Path, env: Mapping[str, str], log: Path, target: str = "register_model") -> None:
        self.log, self._source, self._env, self._target = log, source, env, target
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._url, self._closed, self._missing = threading.Lock(), "", False, False
        self._starts, self._next_start = 0, 0.0

    def url(self) -> str:
        """Return the address of the running function, starting it if need be."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            return self._url

    def close(self) -> None:
        """End the function's process, for good."""
        self._closed = True
        if process := self._process:
            process.kill()  # without the lock, which who waits for its start may hold
        with self._lock:
            self._end()

    def _start(self) -> None:
        if not self._source.exists():
            if not self._missing:
                logger.warning("upload events wait: there is no function at %s", self._source)
            self._missing = True
            raise FileNotFoundError(f"there is no function at {self._source}")
        if self._closed or (wait := self._next_start - time.monotonic()) > 0:
            raise RuntimeError("the twin ends" if self._closed else f"the function died, again in {wait:.1f} s")
        self._end()
        self._next_start = time.monotonic() + min(_LAST_RESTART_S, _FIRST_RESTART_S * 2 ** min(self._starts, 30))
        self._starts += 1
        command = [sys.executable, "-m", __name__, "--source", str(self._source), "--target", self._target]
        pipe, env = subprocess.PIPE, os.environ | self._env
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=env)  # noqa: S603
        too_late = threading.Timer(_START_S, self._process.kill)
        too_late.start()
        port = self._process.stdout.readline().strip()
        too_late.cancel()
        if not port:
            raise RuntimeError(f"the function at {self._source} does not start; see {self.log}")
        self._url = f"http://127.0.0.1:{int(port)}/"

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()  # closes its pipes, and waits
            self._process = None


def main() -> None:
    """Serve the function until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    args = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from functions_framework import create_app
    from werkzeug.serving import make_server

    app = create_app(args.target, args.source, "cloudevent")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    os.dup2(2, 1)  # nobody reads the pipe from here on, and a full one would stop the function
    server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
