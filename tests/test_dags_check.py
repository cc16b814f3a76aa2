"""``mlsys dags check``: what must not go to Composer is found, and named."""

import pytest
from typer.testing import CliRunner

from mlsys.airflow.check import check_dags
from mlsys.cli import app
from mlsys.errors import NotFoundError, SchemaError
from tests.airflow_process import PYTHON, ROOT

GOOD = '''\
"""An Airflow DAG that a test made."""
from mlsys_dags import prediction_dag
dag = prediction_dag(model_name="good", source="p.d.t", output_table="p.d.o", id_columns=["id"])
'''
PLAIN = '''\
"""An Airflow DAG of somebody's own."""
try:
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
dag = DAG("{dag_id}", {options})
'''
BAD = {
    "broken_dag.py": ("import airflow, no_such_module  # dag\n", "No module named 'no_such_module'"),
    "same_dag.py": (GOOD.replace('"good"', '"twice"'), "DAG twice-prod is in another file, too"),
    "same_again_dag.py": (GOOD.replace('"good"', '"twice"'), "DAG twice-prod is in another file, too"),
    "connects_dag.py": (GOOD.replace('"good"', '"connects"') + "import socket\nsocket.getaddrinfo('localhost', 80)\n",
                        "it looks up the host localhost while it is parsed"),
    "runs_dag.py": (GOOD.replace('"good"', '"runs"') + "import subprocess\nsubprocess.run(['true'])\n",
                    "it runs the program true while it is parsed"),
    "heavy_dag.py": (GOOD.replace('"good"', '"heavy"') + "if True:\n    import pandas as pd\n",
                     "heavy_dag.py imports pandas at its top"),
    "slow_dag.py": (GOOD.replace('"good"', '"slow"') + "import time\ntime.sleep(1.5)\n", "more than an empty file"),
    "none_dag.py": ("x = 1\n", "Airflow finds no DAG in it"),
    "named_dag.py": (PLAIN.format(dag_id="Titanic", options="schedule=None, doc_md='x', max_active_runs=1"),
                     "DAG Titanic must be named like its model and environment"),
    "parallel_dag.py": (PLAIN.format(dag_id="parallel-prod", options="schedule='@daily', max_active_runs=3"),
                        "has max_active_runs 3, not 1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a good DAG and many bad ones."""
    folder = tmp_path_factory.mktemp("dags")
    (folder / "mlsys_dags.py").write_text((ROOT / "dags" / "mlsys_dags.py").read_text())
    (folder / "good_dag.py").write_text(GOOD)
    once = "import sys, time\nif not hasattr(sys, 'parsed'):\n    sys.parsed = True\n    time.sleep(2)\n"
    (folder / "once_dag.py").write_text(GOOD.replace('"good"', '"once"') + once)
    for name, (text, _) in BAD.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return {finding.file: finding for finding in check_dags(folder, ("prod",), python=PYTHON)}


@pytest.mark.parametrize(("file", "said"), [(name, said) for name, (_, said) in BAD.items()], ids=BAD)
def test_each_fault_is_found_and_named(found, file, said):
    assert said in " | ".join(found[file].faults)


def test_a_good_dag_has_no_faults(found):
    good = found["good_dag.py"]
    assert good.faults == ()
    assert (good.dags, good.schedules) == (("good-prod",), ("0 0 * * *",))


def test_what_a_file_does_once_is_told_apart_from_what_each_parse_takes(found):
    """Imports are done once in a process of Airflow, which then parses the file every half minute."""
    once = found["once_dag.py"]
    assert once.faults == ()
    assert once.first_seconds >= 2 > once.seconds


def test_the_projects_dags_can_be_deployed():
    done = CliRunner().invoke(app, ["dags", "check", "--env", "staging", "--python", PYTHON])
    assert done.exit_code == 0, done.output
    assert "titanic-survival-staging" in done.output


def test_the_command_fails_for_a_bad_folder_and_names_an_empty_one(tmp_path):
    (tmp_path / "none_dag.py").write_text("x = 1\n")
    done = CliRunner().invoke(app, ["dags", "check", "--folder", str(tmp_path), "--env", "dev", "--python", PYTHON])
    assert done.exit_code == SchemaError.exit_code
    with pytest.raises(NotFoundError, match=r"there is no \*_dag\.py in"):
        check_dags(tmp_path / "nothing", ("dev",))
