"""Parse a folder of DAGs and print, as JSON, what Airflow made of it: ``python inspector.py FOLDER``.

It stands alone, so that any Airflow's Python can run it. What a file does while it is parsed is watched: a connection,
a program or a database has no place there, where a scheduler comes by every half minute.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
_REPLIES = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what Airflow and the DAGs print

_WATCHED = {
    "socket.connect": "connects to {}",
    "socket.getaddrinfo": "looks up the host {}",
    "subprocess.Popen": "runs the program {}",
    "os.system": "runs the command {}",
    "sqlite3.connect": "opens the database {}",
}
_work: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple) -> None:
    if _watching and event in _WATCHED:
        named = arguments[1] if event == "socket.connect" else arguments[0]
        _work.append(_WATCHED[event].format(named))


def inspect(folder: Path) -> dict:
    """Return what the DAGs of a folder are, what is wrong with it, and how long a parse takes."""
    global _watching
    try:
        import airflow
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2
        from airflow.models import DagBag
    sys.path.append(str(folder))
    empty = folder.parent / "empty.py"  # beside it: what Airflow itself takes for a file
    empty.write_text("'''airflow dag'''\n")
    _seconds(DagBag, empty)
    sys.addaudithook(_watch)
    files = []
    for file in sorted(folder.glob("*_dag.py")):
        _work.clear()
        _watching = True
        first, _ = _seconds(DagBag, file)
        _watching = False
        again, bag = min((_seconds(DagBag, file) for _ in range(3)), key=lambda pair: pair[0])
        nothing = min(_seconds(DagBag, empty)[0] for _ in range(3))
        files.append({
            "file": file.name,
            "first_seconds": first,
            "seconds": again,
            "empty_seconds": nothing,
            "work": sorted(set(_work)),
            "errors": [text.strip().splitlines()[-1] for text in bag.import_errors.values()],
            "dags": [_described(dag) for dag in bag.dags.values()],
        })  # fmt: skip
    return {"airflow": airflow.__version__, "files": files}


def _seconds(bag: type, path: Path) -> tuple[float, Any]:
    started = time.perf_counter()
    parsed = bag(str(path))
    return time.perf_counter() - started, parsed


def _described(dag: Any) -> dict:
    timetable = dag.timetable
    return {
        "dag_id": dag.dag_id,
        "schedule": getattr(timetable, "expression", None) or getattr(timetable, "_expression", None),
        "start_date": dag.start_date.isoformat() if dag.start_date else None,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "owner": dag.owner,
        "documented": bool(dag.doc_md),
        "tasks": sorted(task.task_id for task in dag.tasks),
        "jobs": sorted({task.job_name for task in dag.tasks if hasattr(task, "job_name")}),
    }


if __name__ == "__main__":
    _REPLIES.write(json.dumps(inspect(Path(sys.argv[1]))))
    _REPLIES.flush()
    os._exit(0)  # Airflow has threads that would stay
