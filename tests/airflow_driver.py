"""A process with Airflow in it, which tests ask to run DAGs: JSON lines in, JSON lines out.

It stands alone, so that any Airflow's Python can run it; where everything is, environment variables say. What Airflow
logs goes to standard error.
"""

import json
import os
import sys
import time
import warnings
from datetime import datetime, timedelta

warnings.simplefilter("ignore")
replies = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import airflow  # noqa: E402
from airflow.utils.db import initdb  # noqa: E402

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # Airflow 2
    from airflow.models import DagBag


def bag() -> DagBag:
    folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    if folder not in sys.path:  # as Airflow's own processes have it
        sys.path.append(folder)
    return DagBag(folder)


def run(dag_id: str, logical_date: str, conf: dict | None = None) -> dict:
    """Run a DAG as `dag.test` does, and say how its tasks ended."""
    found = bag()
    dag, started = found.dags[dag_id], time.monotonic()
    dag_run = dag.test(datetime.fromisoformat(logical_date), run_conf=conf) if airflow.__version__ < "3" else dag.test(
        logical_date=datetime.fromisoformat(logical_date), run_conf=conf
    )  # fmt: skip
    tasks = dag_run.get_task_instances()
    return {
        "state": str(getattr(dag_run.state, "value", dag_run.state)),
        "tasks": {ti.task_id: str(getattr(ti.state, "value", ti.state)) for ti in tasks},
        "tries": {ti.task_id: ti.try_number for ti in tasks},
        "seconds": time.monotonic() - started,
    }


def check(dag_id: str, as_of: str, execution: str, **bounds) -> dict:
    """Let a DAG's check look at an execution, with other bounds."""
    task = bag().dags[dag_id].get_task("check")
    task.as_of, task.execution = as_of, execution
    for name, value in bounds.items():
        setattr(task, name, value)
    return task.execute({})


def moment(end: str | None, run_after: str | None = None, as_of: str | None = None) -> dict:
    """Say for which moment a run of the DAG is."""
    bag()
    from mlsys_dags import as_of as macro

    given = {"data_interval_end": end and datetime.fromisoformat(end),
             "run_after": run_after and datetime.fromisoformat(run_after)}  # fmt: skip
    return {"as_of": macro(type("DagRun", (), given), {"as_of": as_of})}


def describe(dag_id: str, env: str = "local") -> dict:
    """Say what Airflow makes of a DAG in an environment."""
    os.environ["MLSYS_ENV"] = env
    try:
        found = bag()
    finally:
        os.environ["MLSYS_ENV"] = "local"
    dag = found.dags.get(dag_id)
    if dag is None:
        return {"dags": sorted(found.dags), "errors": found.import_errors}
    return {
        "dag_id": dag.dag_id,
        "doc_md": dag.doc_md,
        "max_active_runs": dag.max_active_runs,
        "owner": dag.owner,
        "catchup": dag.catchup,
        "tasks": {task.task_id: type(task).__mro__[1].__name__ + " " + type(task).__name__ for task in dag.tasks},
        "deferrable": dag.get_task("predict").deferrable,
        "overrides": dag.get_task("predict").overrides,
        "params": {name: dag.params[name] for name in dag.params},
        "project": dag.get_task("predict").project_id,
        "region": dag.get_task("predict").region,
        "job": dag.get_task("predict").job_name,
        "key": dag.get_task("check").key,
        "errors": found.import_errors,
    }


def due(dag_id: str, start: str, days: int) -> list[str]:
    """Return for which moments the schedule makes its first runs when it catches up from ``start``."""
    from airflow.timetables.base import TimeRestriction

    dag = bag().dags[dag_id]
    timetable = dag.timetable
    if airflow.__version__ >= "3":
        from airflow.serialization.encoders import coerce_to_core_timetable

        timetable = coerce_to_core_timetable(timetable)
    import pendulum

    begin = pendulum.instance(datetime.fromisoformat(start))
    restriction = TimeRestriction(begin, begin + timedelta(days=days + 1), catchup=True)
    last, moments = None, []
    while len(moments) < days and (info := timetable.next_dagrun_info(
            last_automated_data_interval=last, restriction=restriction)):  # fmt: skip
        last = info.data_interval
        macro = dag.user_defined_macros["as_of"]
        moments.append(macro(type("DagRun", (), {"data_interval_end": last.end}), {}))
    return moments


def parsed(runs: int, dag_id: str = "") -> dict:
    """Return how long the DAGs folder takes to parse, in seconds, once everything is imported."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        found = bag()
        seconds.append(time.perf_counter() - started)
    return {"dags": sorted(found.dags), "errors": found.import_errors, "seconds": seconds}


def main() -> None:
    """Answer until standard input ends."""
    initdb()
    replies.write(json.dumps({"airflow": airflow.__version__}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = globals()[request.pop("do")](**request)
        except BaseException as exc:  # noqa: BLE001 - the test says what is wrong
            import traceback

            traceback.print_exc()
            answer = {"failed": f"{type(exc).__name__}: {exc}"}
        replies.write(json.dumps(answer, default=str) + "\n")
    os._exit(0)  # Airflow has threads that would stay


if __name__ == "__main__":
    main()
