"""What mlsys does in IPython and Jupyter: the magic, what objects look like, and errors in one line."""

import re
import subprocess
import sys
from datetime import UTC, datetime

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mlsys.bq import bq_dry_run, bq_put
from mlsys.errors import QueryError
from mlsys.html import facts
from mlsys.jupyter.magic import parameters_in
from mlsys.models import load_manifest, save_model
from mlsys.names import TableId
from mlsys.predict import RunRecord
from mlsys.registry import list_versions, set_alias


@pytest.fixture(scope="module")
def shell():
    """An IPython of its own with the extension loaded."""
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "mlsys")
    yield shell
    InteractiveShell.clear_instance()


@pytest.fixture
def cell(shell, twin):
    """Run a cell; return what it printed and displayed, and its result."""

    def run(code: str):
        with capture_output() as captured:
            result = shell.run_cell(code)
        captured.result = result
        return captured

    return run


@pytest.fixture
def numbers(dataset, shell):
    """A table of the numbers 0 to 24 and their squares; the notebook knows its path."""
    frame = pd.DataFrame({"n": range(25), "square": [n * n for n in range(25)]})
    bq_put(frame, f"{dataset}.numbers")
    shell.push({"least": 20, "wanted": [1, 2, 3]})
    return f"{dataset}.numbers"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT @a, @b_2 + @a", ["a", "b_2"]),
        ("SELECT '@a', \"@b\", `p.d.@c`", []),
        ('SELECT \'\'\'it\'s @a\'\'\', """say "@b" """, @c', ["c"]),
        (r"SELECT 'it\'s @a', r'\@b', @c", ["c"]),
        ("SELECT 1 -- @a\n# @b\n/* @c\n@d */ + @e", ["e"]),
        ("SELECT @@project_id, @@error.message, @a", ["a"]),
        ("SELECT x WHERE mail = 'a@b.c' AND y=@a", ["a"]),
    ],
    ids=["twice", "quoted", "triple", "escaped", "comments", "system", "mail"],
)
def test_parameters_are_what_the_query_uses(query, names):
    """Not what its texts and comments mention."""
    assert parameters_in(query, dict.fromkeys(["a", "b", "b_2", "c", "d", "e"], 1)) == dict.fromkeys(names, 1)


def test_parameter_without_a_variable_is_named():
    """Before the query is sent."""
    with pytest.raises(QueryError, match="uses @age, but there is no variable age"):
        parameters_in("SELECT @age", {})


def test_cell_puts_all_rows_into_a_variable_and_shows_the_first(cell, numbers, shell):
    """The variable gets a DataFrame as bq_get returns it."""
    done = cell(f"%%bq big --show 2\nSELECT * FROM `{numbers}` WHERE n >= @least OR n IN UNNEST(@wanted) ORDER BY n")
    assert shell.user_ns["big"]["n"].tolist() == [1, 2, 3, 20, 21, 22, 23, 24]
    assert done.outputs[0].data["text/html"].count("<tr") == 3
    assert done.stdout == "8 rows, 2 columns in big; the first 2 are shown\n"


@pytest.mark.parametrize(
    ("line", "query", "printed"),
    [
        ("", "SELECT * FROM `{}`", "25 rows, 2 columns; the first 10 are shown"),
        ("", "{}", "25 rows, 2 columns; the first 10 are shown"),
        ("--show 30", "SELECT n FROM `{}`", "25 rows, 1 columns"),
        ("--show 0", "SELECT n FROM `{}`", "25 rows, 1 columns"),
        ("--max-rows 5", "SELECT n FROM `{}`", "5 rows, 1 columns"),
        ("", "SELECT * FROM `{}` WHERE n < 0", "0 rows, 2 columns"),
        ("", "CREATE OR REPLACE TABLE `{}_2` AS SELECT 1 AS x", "done: the statement returns no rows"),
    ],
    ids=["query", "table", "all", "none-shown", "max-rows", "no-rows", "ddl"],
)
def test_cell_without_a_variable_only_shows(cell, numbers, line, query, printed):
    """The number of rows is that of the whole result."""
    done = cell(f"%%bq {line}\n{query.format(numbers)}")
    assert done.result.success
    assert done.stdout == printed + "\n"


def test_dry_run_says_what_would_be_read(cell, numbers, shell):
    """And runs nothing; with a variable it is kept."""
    done = cell(f"%%bq plan --dry-run\nSELECT n FROM `{numbers}` WHERE n > @least")
    assert done.result.result == shell.user_ns["plan"] == bq_dry_run(f"SELECT n FROM `{numbers}` WHERE n > 20")
    assert numbers in shell.user_ns["plan"]._repr_html_()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%%bq\nSELECT @nobody", "QueryError: the query uses @nobody, but there is no variable nobody"),
        ("%%bq\nSELEC 1", "QueryError: BigQuery refused the query"),
        ("%%bq\nSELECT * FROM `shoufianesys.nowhere.t`", "NotFoundError: "),
        ("%%bq 2nd\nSELECT 1", "2nd: the rows go to a variable, got no name of one"),
        ("%%bq --nonsense\nSELECT 1", "unrecognized arguments: --nonsense"),
        ("from mlsys.models import load_model\nload_model('nobodys')", "line 2: load_model('nobodys')"),
        ("import google.auth.exceptions as e\nraise e.DefaultCredentialsError('log in')",
         "DefaultCredentialsError: log in"),
    ],
    ids=["parameter", "sql", "table", "variable", "option", "python", "google"],
)  # fmt: skip
def test_mistakes_are_told_in_a_line_or_two(cell, code, words):
    """No traceback through our code: the line of the cell, and what is wrong with it."""
    done = cell(code)
    assert not done.result.success
    told = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr).strip()
    assert words in told
    assert len(told.splitlines()) <= 2


def test_versions_and_manifests_show_as_tables(model_name):
    """A description is somebody's text: it is escaped."""
    from sklearn.dummy import DummyClassifier

    frame = pd.DataFrame({"x": [0.0, 1.0]})
    model = save_model(DummyClassifier().fit(frame, [0, 1]), model_name, frame, description="<script>alert(1)</script>",
                       metrics={"accuracy": 0.5})  # fmt: skip
    for shown in (model._repr_html_(), load_manifest(model_name)._repr_html_()):
        assert "<script>" not in shown
        assert "&lt;script&gt;" in shown
        assert "accuracy 0.5" in shown
    assert "DummyClassifier()" in model._repr_html_()
    set_alias(model_name, "champion", "v1", reason="a test")
    versions = list_versions(model_name)
    assert "accuracy 0.5" in versions._repr_html_()
    assert "accuracy 0.5" in versions[versions["model_version"] == "v1"]._repr_html_()
    assert "<script>" not in versions._repr_html_()


def test_run_shows_where_its_predictions_are():
    """The record of a run, in a notebook."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    record = RunRecord("0" * 32, "e", "titanic-survival", "v1", TableId.parse("p-project.d.t"), moment, moment, 1200, 3,
                       published=True, seconds=1.25)  # fmt: skip
    shown = record._repr_html_()
    assert "1,200 (3 rows rejected)" in shown
    assert "p-project.d.t" in shown


def test_long_facts_are_folded():
    """A model of a hundred features is still a short table."""
    assert "<details>" in facts("m", {"inputs": "\n".join("abcdefghij")})
    assert "<details>" not in facts("m", {"inputs": "a\nb"})


def test_import_stays_light():
    """The extension costs nothing until it is loaded."""
    code = "import sys, mlsys; print(len({'IPython', 'pandas', 'google.cloud.bigquery'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0\n"
