"""The notebooks run from top to bottom on a fresh clone, in a real kernel, and what they keep is what they print."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mlsys.models import load_evaluation, load_model
from mlsys.registry import list_versions
from mlsys.settings import Settings

FOLDER = Path(__file__).parents[1] / "notebooks"
WORKED = FOLDER / "01-sf-titanic-survival.ipynb"


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory):
    """Settings with a data folder that nobody has used, and the environment of a kernel that uses it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLSYS_DATA_DIR", str(tmp_path_factory.mktemp("fresh")))
        patch.setenv("MLSYS_MODEL_PACKAGES", "")  # as users have it: no package but scikit-learn's kind
        patch.setenv("OMP_NUM_THREADS", "1")  # where tests run side by side, threads wait for each other
        yield Settings()


def run(notebook):
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return client.execute()


def texts(notebook, cell_id):
    """Return the texts that a cell displays."""
    (cell,) = (cell for cell in notebook.cells if cell["id"] == cell_id)
    return [output.data["text/plain"] for output in cell.outputs if output.output_type != "stream"]


def words(notebook, cell_id):
    """Return the words of those texts, those that are numbers with a fraction as numbers."""
    found = " ".join(texts(notebook, cell_id)).split()
    return [float(word) if re.fullmatch(r"-?\d+\.\d+", word) else word for word in found]


def close(word):
    """Return what equals a word; the last digit of a number may be another where a CPU adds in another order."""
    return pytest.approx(word, abs=0.0015) if isinstance(word, float) else word


def test_worked_notebook_runs_and_its_outputs_are_todays(fresh_clone):
    """From no table at all to a version that another process loads; tables and choices are those in the file."""
    kept = nbformat.read(WORKED, 4)
    done = run(nbformat.read(WORKED, 4))
    for cell in ("titanic-07", "titanic-08", "titanic-11", "titanic-14", "titanic-18", "titanic-24"):
        assert texts(done, cell) == texts(kept, cell)
    assert words(done, "titanic-16") == [close(word) for word in words(kept, "titanic-16")]
    model = load_model("titanic-survival", "v1", settings=fresh_clone)
    model.check_golden_rows()
    evaluation = json.loads(load_evaluation("titanic-survival", settings=fresh_clone))
    assert model.manifest.metrics == evaluation["metrics"]
    assert f"{model.manifest.metrics['accuracy']:.0%}" == "84%"  # which the text at its end says
    assert model.manifest.metrics["log_loss"] == pytest.approx(0.42, abs=0.005)


@pytest.fixture(scope="module")
def template(fresh_clone):
    """The cells of the template after a run, and of a few more, for which another kernel would cost too much."""
    notebook = nbformat.read(FOLDER / "00_template.ipynb", 4)
    notebook.cells += [cell("x = 41"), *(cell(code, "raises-exception") for code in MORE_CELLS)]
    return run(notebook).cells


MORE_CELLS = (
    "%%bq answer\nSELECT @x + 1 AS n",
    'frame = bq_get("SELECT 1 AS n", progress=True)',
    'bq_get(\n    "shoufianesys.nowhere.table"\n)',
    "class Mine(LogisticRegression):\n    pass\n\n\nsave_model(prepared(Mine()).fit(X, y), MODEL_NAME, X)",
)


def cell(code, *tags):
    return nbformat.v4.new_code_cell(code, metadata={"tags": list(tags)})


def test_template_runs_as_it_is(template, fresh_clone):
    """Whoever copies it starts from something that works."""
    assert list_versions("my-first-model", settings=fresh_clone)["model_version"].tolist() == ["v1"]
    assert load_model("my-first-model", settings=fresh_clone).manifest.metrics["accuracy"] > 0.75


def test_a_kernel_shows_progress_rows_and_short_errors(template):
    """What only a real kernel can: widgets for bars, and errors as the notebook's own outputs."""
    rows, bar, missing, own_class = (cell.outputs for cell in template[-len(MORE_CELLS) :])
    assert "<td>42</td>" in rows[0].data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bar[0].data
    assert (missing[-1].output_type, missing[-1].ename) == ("error", "NotFoundError")
    assert missing[-1].traceback[0] == "line 1: bq_get("
    assert "nowhere" in missing[-1].traceback[1]
    assert own_class[-1].traceback[0].startswith("line 5: save_model(")
    assert "needs Mine, which is defined in a notebook" in own_class[-1].traceback[1]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_small_and_clean(path):
    """Outputs of the worked ones stay; versions of widgets and kernels, times, and names of machines do not."""
    text = path.read_text()
    notebook = nbformat.reads(text, 4)
    assert "kernelspec" not in notebook.metadata
    assert "widgets" not in notebook.metadata
    assert not any(cell.metadata for cell in notebook.cells)
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|Users)/|\w@\w+", re.sub(r'base64,[^"]*', "", text))
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert any(outputs) == (path.name != "00_template.ipynb")
