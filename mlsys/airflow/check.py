"""Check a folder of DAGs before it goes to Composer: what Airflow says of it, and what mlsys expects of a DAG."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from mlsys.errors import MlsysError, NotFoundError
from mlsys.names import check_model_name, dag_id
from mlsys.settings import Environment

_INSPECTOR = Path(__file__).with_name("inspector.py")
_TIMEOUT_S = 300
_SLOW_S = 1.0  # a parse beyond an empty file's, once everything is imported
_SLOW_FIRST_S = 20.0  # the first one, imports included; Airflow gives up after 30 (core.dagbag_import_timeout)
# Composer has some of these; each costs seconds in every parse, and belongs into the job.
_HEAVY = {"joblib", "matplotlib", "mlsys", "numpy", "pandas", "plotly", "pyarrow", "requests", "scipy", "scripts",
          "seaborn", "sklearn"}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One DAG file as one environment sees it. ``faults`` is empty when it can be deployed."""

    env: str
    file: str
    dags: tuple[str, ...]
    schedules: tuple[str, ...]
    first_seconds: float
    seconds: float
    empty_seconds: float
    faults: tuple[str, ...]


def check_dags(folder: Path, environments: tuple[str, ...], *, python: str = sys.executable) -> list[Finding]:
    """Parse the DAGs of a folder as each environment's Airflow does, and return what was found.

    Parameters
    ----------
    folder
        The folder that is copied to Composer. ``*_dag.py`` are its DAG files, the rest are modules that they share.
    python
        The Python of the Airflow that parses; by default this one's.

    Raises
    ------
    NotFoundError
        There is no such folder, no DAG in it, or no Airflow.
    """
    folder = folder.absolute()
    if not list(folder.glob("*_dag.py")):
        raise NotFoundError(f"there is no *_dag.py in {folder}: name the folder with the DAGs")
    findings = [finding for env in environments for finding in _of_environment(folder, env, python)]
    return _with_twice_named(findings)


def _of_environment(folder: Path, env: str, python: str) -> list[Finding]:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "dags"  # as Composer gets it: without what lies around it
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
        seen = _inspect(copy, Path(place), env, python)
        return [_finding(copy / each["file"], env, each) for each in seen["files"]]


def _inspect(folder: Path, home: Path, env: str, python: str) -> dict:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON", "MLSYS"))}
    own |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "MLSYS_ENV": env,
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder)}  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own program
        [python, "-P", str(_INSPECTOR), str(folder)],
        env=own, cwd=home, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    if "No module named 'airflow" in done.stderr and not done.stdout:
        raise NotFoundError(f"{python} has no Airflow: uv sync --group airflow, or name another with --python")
    if not done.stdout:
        raise MlsysError(
            f"Airflow could not parse {folder}: {' '.join(done.stderr.split())[-500:] or 'it said nothing'}"
        )
    return json.loads(done.stdout)


def _finding(file: Path, env: str, seen: dict) -> Finding:
    faults = [*seen["errors"], *(f"it {work} while it is parsed" for work in seen["work"]), *_heavy_imports(file)]
    if not seen["dags"] and not seen["errors"]:
        faults.append("Airflow finds no DAG in it; a file must have the words airflow and dag in it")
    for dag in seen["dags"]:
        faults += _faults_of_dag(dag, env)
    if (extra := seen["seconds"] - seen["empty_seconds"]) > _SLOW_S:
        faults.append(f"a parse takes {extra:.1f} s more than an empty file, {_SLOW_S:.0f} allowed")
    if seen["first_seconds"] > _SLOW_FIRST_S:
        faults.append(f"the first parse takes {seen['first_seconds']:.0f} s, {_SLOW_FIRST_S:.0f} allowed")
    return Finding(
        env=env,
        file=file.name,
        dags=tuple(dag["dag_id"] for dag in seen["dags"]),
        schedules=tuple(dag["schedule"] or "by hand" for dag in seen["dags"]),
        first_seconds=seen["first_seconds"],
        seconds=seen["seconds"],
        empty_seconds=seen["empty_seconds"],
        faults=tuple(faults),
    )


def _faults_of_dag(dag: dict, env: str) -> list[str]:
    name = dag["dag_id"]
    model = name.removesuffix(f"-{env}")
    try:
        wrong = name != dag_id(check_model_name(model), env)
    except MlsysError:
        wrong = True
    faults = [f"DAG {name} must be named like its model and environment, model-{env}"] if wrong else []
    faults += [f"DAG {name} starts the job {job}, not {name}" for job in dag["jobs"] if job != name]
    if dag["max_active_runs"] != 1:
        faults.append(f"DAG {name} has max_active_runs {dag['max_active_runs']}, not 1")
    if dag["schedule"] and not dag["start_date"]:
        faults.append(f"DAG {name} has a schedule and no start_date")
    if not dag["documented"]:
        faults.append(f"DAG {name} has no doc_md for Airflow's page")
    return faults


def _heavy_imports(file: Path) -> list[str]:
    """Return what a file, or a module beside it that it imports, imports outside of functions though it should not."""
    found, seen, todo = [], set(), [file]
    while todo:
        path = todo.pop()
        seen.add(path)
        for name in _imported(path):
            root = name.partition(".")[0]
            beside = file.parent / f"{root}.py"
            if root in _HEAVY:
                found.append(f"{path.name} imports {name} at its top: import it in the function that needs it")
            elif beside.exists() and beside not in seen:
                todo.append(beside)
    return found


def _imported(path: Path) -> list[str]:
    try:
        statements = ast.parse(path.read_text()).body
    except SyntaxError:  # Airflow says so
        return []
    names = []
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            statements += [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
    return names


def _with_twice_named(findings: list[Finding]) -> list[Finding]:
    counts = Counter((finding.env, dag) for finding in findings for dag in finding.dags)
    return [
        replace(finding, faults=(*finding.faults, *(
            f"DAG {dag} is in another file, too" for dag in finding.dags if counts[finding.env, dag] > 1
        )))
        for finding in findings
    ]  # fmt: skip


def every_environment() -> tuple[str, ...]:
    """Return the names of all environments."""
    return tuple(Environment)
