"""An Airflow in a process of its own, whose DAGs run on the twin.

It is the one of this environment, or another: ``MLSYS_AIRFLOW_PYTHON`` names the Python that has it (dags/README.md).
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mlsys.airflow import variables

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("MLSYS_AIRFLOW_PYTHON") or sys.executable


class Airflow:
    """A running `tests.airflow_driver`; a context manager that ends it."""

    def __init__(self, home: Path, dags: Path, twin: str) -> None:
        self.home, self.dags, self._twin = home, dags, twin
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / "driver.log"
        self._start()

    def _start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        env |= variables(self._twin, self.home, self.dags)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, str(ROOT / "tests" / "airflow_driver.py")],
                env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=self.home,
            )  # fmt: skip
        self.version = self.wait(120)["airflow"]

    def begin(self, do: str, **arguments: Any) -> None:
        """Ask for something, and do not wait for the answer."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def wait(self, timeout: float = 120) -> Any:
        """Return the answer; an Airflow that has none in time is ended."""
        too_late = threading.Timer(timeout, self._process.kill)
        too_late.start()
        line = self._process.stdout.readline()
        too_late.cancel()
        assert line, f"Airflow gave no answer: {self.tail()}"
        return json.loads(line)

    def do(self, do: str, **arguments: Any) -> Any:
        """Ask for something and return the answer."""
        self.begin(do, **arguments)
        return self.wait()

    def kill_and_start_again(self) -> None:
        """``kill -9``, as a worker dies, and another one in its place."""
        self._process.kill()
        self._process.wait()
        self._start()

    def said(self) -> str:
        """Return all that Airflow has logged."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Return the end of what Airflow has logged."""
        return self.said()[-3000:]

    def __enter__(self) -> "Airflow":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
