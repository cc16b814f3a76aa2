"""The command line as a person meets it: processes, exit codes, one line for each mistake."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlsys.cli import main
from mlsys.settings import get_settings

ROOT = Path(__file__).parents[1]


def mlsys_process(*arguments, cwd=None, **environment):
    """Run the command in a process of its own, on the session's twin."""
    return subprocess.run(
        [Path(sys.executable).with_name("mlsys"), *arguments],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@dataclass
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def mlsys(monkeypatch, capsys):
    """Run the command in this process: a process of its own for each of many would only cost imports."""

    def run(*arguments, cwd=None, **environment):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            if cwd:
                patch.chdir(cwd)
            get_settings.cache_clear()
            try:
                main(list(arguments))
                code = 0
            except SystemExit as exc:
                code = int(exc.code or 0)
            finally:
                get_settings.cache_clear()
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def demo(_session_twin):
    """Two runs of the demo, one after the other."""
    return [mlsys_process("demo"), mlsys_process("demo")]


def test_demo_runs_twice_and_the_second_is_a_new_version(demo, mlsys):
    """v2 appears, v1 is untouched, and the predictions of both are there."""
    for number, done in enumerate(demo, 1):
        assert done.returncode == 0, done.stderr
        assert f"titanic-survival/v{number}/" in done.stdout
        assert "held-out passengers" in done.stdout
    listed = json.loads(mlsys("models", "list", "titanic-survival", "--json").stdout)
    assert [row["model_version"] for row in listed] == ["v1", "v2"]


def test_query_prints_the_demos_predictions(demo, mlsys):
    """The query that the README shows."""
    sql = "SELECT model_version, COUNT(*) AS n FROM `shoufianesys.titanic.predictions` GROUP BY 1 ORDER BY 1"
    rows = json.loads(mlsys("query", sql, "--format", "json").stdout)
    assert [row["model_version"] for row in rows] == ["v1", "v2"]
    assert rows[0]["n"] == rows[1]["n"] > 200
    assert mlsys("query", sql, "--format", "csv").stdout.splitlines()[0] == "model_version,n"
    assert "v1" in mlsys("query", sql).stdout
    assert "would process" in mlsys("query", sql, "--dry-run").stdout


def test_questions_of_the_registrys_page_are_answered(demo, mlsys):
    """Each statement of scripts/model_registry/README.md runs; lineage leads from a prediction to its training."""
    mlsys("alias", "set", "titanic-survival", "champion", "v1", "--reason", "first")
    page = (ROOT / "scripts" / "model_registry" / "README.md").read_text()
    (block,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    statements = [text.strip() for text in re.sub(r"(?m)^--.*\n", "", block).split(";") if text.strip()]
    assert len(statements) == 9
    for statement in statements:
        here = statement.replace("'prod'", "'local'").replace("2026-03-03", "9999-01-01")
        rows = json.loads(mlsys("query", here, "--format", "json").stdout)
        assert rows or "refused" in statement, statement
    assert {row["passenger_id"] for row in rows} == {3}
    assert {row["model_version"] for row in rows} == {"v1", "v2"}
    assert "passengers" in rows[0]["training_query"]


def test_models_show_is_a_page_or_the_manifest(demo, mlsys):
    """For people and for programs."""
    page = mlsys("models", "show", "titanic-survival", "v1").stdout
    assert "cv_accuracy" in page
    assert "pclass INT64 NOT NULL" in page
    assert json.loads(mlsys("models", "show", "titanic-survival", "v1", "--json").stdout)["model_version"] == "v1"


def test_predict_takes_flags_and_environment_variables(demo, mlsys):
    """The DAG passes variables, a person flags; the script and the command are one."""
    environment = {
        "MODEL_NAME": "titanic-survival",
        "SOURCE": "shoufianesys.titanic.passengers",
        "OUTPUT_TABLE": "shoufianesys.titanic.by_environment",
        "ID_COLUMNS": "passenger_id",
        "AS_OF": "2026-01-31",
    }
    command = [sys.executable, str(ROOT / "scripts/predict.py"), "--version", "v1", "--json"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout)
    assert (record["rows"], record["model_version"], record["as_of"][:10]) == (1309, "v1", "2026-01-31")
    flags = ["--model", "titanic-survival", "--source", environment["SOURCE"], "--output", environment["OUTPUT_TABLE"],
             "--id", "passenger_id", "--as-of", "2026-01-31", "--json"]  # fmt: skip
    again = json.loads(mlsys("predict", *flags).stdout)
    assert (again["rows"], again["run_id"]) == (1309, record["run_id"])
    count = mlsys("query", "SELECT COUNT(*) AS n FROM `shoufianesys.titanic.by_environment`", "--format", "csv")
    assert count.stdout.split() == ["n", "1309"]


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["up"], ["predict"], ["query"], ["models"], ["models", "list"], ["models", "show"]],
    ids=" ".join,
)  # fmt: skip
def test_help_shows_an_example(command, mlsys):
    """Every command says how it is used."""
    done = mlsys(*command, "--help", COLUMNS="200")
    assert done.returncode == 0
    assert f"mlsys {' '.join(command)}".strip() in done.stdout.split("Example:")[1]


TABLE = "shoufianesys.titanic.passengers"
PREDICT = {
    "MODEL_NAME": "titanic-survival",
    "SOURCE": TABLE,
    "OUTPUT_TABLE": "shoufianesys.titanic.wrong",
    "ID_COLUMNS": "passenger_id",
}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["predict"], {"MODEL_NAME": "no-such-model"}, 3, "no model 'no-such-model'"),
        (["predict", "--version", "v99"], {}, 3, "titanic-survival/v99 is not in the registry of local"),
        (["predict"], {"SOURCE": "shoufianesys.titanic.nothing"}, 3, "table shoufianesys.titanic.nothing is not there"),
        (["predict"], {"SOURCE": "SELECT 1 AS passenger_id"}, 5, "pclass is missing"),
        (["predict"], {"SOURCE": f"SELECT * REPLACE('x' AS age) FROM `{TABLE}`"}, 5, "age is STRING"),
        (["predict"], {"OUTPUT_TABLE": "titanic"}, 2, "table_id must be 'project.dataset.table', got 'titanic'"),
        (["predict"], {"OUTPUT_TABLE": "shoufianesys.nowhere.t"}, 3, "nowhere"),
        (["predict", "--as-of", "soon"], {}, 2, "as_of must be a date or time"),
        (["query", "SELECT * FROM `shoufianesys.titanic.nothing`"], {}, 3, "shoufianesys.titanic.nothing is not there"),
        (["query", "SELEC 1"], {}, 6, "BigQuery refused the query"),
        (["query", "titanic"], {}, 2, "titanic"),
        (["models", "show", "titanic-survival", "v99"], {}, 3, "it has v1, v2"),
        (["models", "show", "Titanic"], {}, 2, "model_name must be"),
        (["demo"], {"MLSYS_ENV": "prod"}, 2, "run it with MLSYS_ENV local or dev, got prod"),
        (["query", "SELECT 1"], {"MLSYS_ENV": "dev", "BIGQUERY_EMULATOR_HOST": "http://127.0.0.1:9"}, 2,
         "BIGQUERY_EMULATOR_HOST is set"),
        (["models", "list"], {"GCP_PROJECT_ID": "another-project"}, 9, "belongs to project shoufianesys"),
        (["models", "list"], {"MLSYS_ENV": "prd"}, 2, "MLSYS_ENV must be .* got 'prd'"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_and_an_exit_code(demo, mlsys, arguments, environment, code, words):
    """The value received, the way out, and nothing else."""
    import re

    done = mlsys(*arguments, **PREDICT | environment)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert len(lines) == 1
    assert re.search(words, lines[0]), lines[0]


def test_no_permission_is_one_line(demo, twin, mlsys):
    """A 403 from the server names the role that is needed."""
    from mlsys.local.faults import Fault

    twin.faults.add(Fault("bigquery.jobs.*", "error", status=403, times=None, message="Access Denied"))
    done = mlsys("query", "SELECT 1")
    assert done.returncode == 4
    assert "roles/bigquery" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_broken_env_file_is_one_line(tmp_path, mlsys):
    """Read before anything starts."""
    (tmp_path / ".env").write_text("this is no setting\n")
    done = mlsys("models", "list", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "line 1: expected NAME=value" in done.stderr


def test_unwritable_data_folder_is_one_line(tmp_path, mlsys):
    """The way out is the variable."""
    (tmp_path / "file").write_text("")
    done = mlsys("models", "list", MLSYS_DATA_DIR=str(tmp_path / "file" / "data"))
    assert (done.returncode, len(done.stderr.splitlines())) == (9, 1)
    assert "set MLSYS_DATA_DIR" in done.stderr


def test_taken_port_is_one_line(tmp_path, mlsys):
    """Another program has it."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = mlsys("up", "--port", str(port), MLSYS_DATA_DIR=str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (9, 1)
    assert f"port {port} is taken" in done.stderr


def test_json_says_what_json_can_say(mlsys):
    """Lists as lists, NULL and NaN as null, infinities as text."""
    infinite, nan = "CAST('inf' AS FLOAT64)", "CAST('nan' AS FLOAT64)"
    sql = f"SELECT [1, 2] AS a, {infinite} AS i, {nan} AS n, NULL AS z, DATE '2026-01-31' AS d"
    (row,) = json.loads(mlsys("query", sql, "--format", "json").stdout)
    assert row == {"a": [1, 2], "i": "inf", "n": None, "z": None, "d": "2026-01-31"}


def test_model_names_complete(demo, mlsys):
    """As a shell asks for them; where the registry cannot be read there is nothing to offer, and no error."""
    ask = {"_MLSYS_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": "mlsys models show tit", "COMP_CWORD": "3",
           "COMP_WORDS": "mlsys models show tit"}  # fmt: skip
    assert mlsys_process(**ask).stdout.split() == ["titanic-survival"]
    assert mlsys_process(**ask, MLSYS_ENV="nonsense").stdout.split() == []
