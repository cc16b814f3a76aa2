"""A model card says what the registry vouches for, in one file that needs nothing else."""

import re
import sys
import uuid
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlsys.card import Card, content, model_card, stored_card
from mlsys.card.drawing import drawings
from mlsys.cli import main
from mlsys.errors import MissingPackageError, NotFoundError, VerificationError
from mlsys.models import load_evaluation, load_manifest, load_model, save_model, verify_model
from mlsys.registry import set_alias
from mlsys.vis import Evaluation, evaluate

pytestmark = pytest.mark.usefixtures("twin")

EVIL = "<script>alert('x')</script> & \"$x$"
_RANDOM = np.random.default_rng(7)
FRAME = pd.DataFrame({"x": _RANDOM.normal(size=300), "kind": _RANDOM.choice(["a", "b", EVIL], 300)})
FRAME.loc[::10, "kind"] = "c"


def fitted(y, final=None):
    prepare = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["kind"]), remainder="passthrough")
    return make_pipeline(prepare, final or LogisticRegression()).fit(FRAME, y)


BINARY = pd.Series((FRAME["x"] + _RANDOM.normal(size=300) > 0).astype(int), name="y")
LETTERS = pd.Series(np.where(FRAME["x"] > 0.5, EVIL, np.where(FRAME["x"] < -0.5, "b", "c")), name="letter")
NUMBERS = pd.Series(FRAME["x"] * 3 + _RANDOM.normal(size=300), name="price")


def save(name):
    model = fitted(BINARY)
    return save_model(
        model,
        name,
        FRAME,
        evaluation=evaluate(model, FRAME, BINARY),
        training_query="SELECT * FROM `shoufianesys.mine.rows`",
        description=f"Is x positive? {EVIL}",
        intended_use="To test cards.",
        limits="Made-up rows only.",
    )


@pytest.fixture(scope="module")
def saved(_session_twin):
    """A version with its evaluation, for tests that leave it as it is."""
    return save(f"model-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="module")
def html(saved):
    """Its card."""
    return model_card(*_names(saved)).html


class Page(HTMLParser):
    """What a browser would see: texts, tags, and every address that it would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        """Note a tag and what it points to."""
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset") and v[0] != "#"]

    def handle_data(self, data):
        """Note a text."""
        self.texts.append(data)


def test_evaluation_belongs_to_the_version(saved):
    """It is an artifact with a digest, its metrics are the version's, and it comes back as it was."""
    assert [artifact.file for artifact in saved.manifest.artifacts] == ["model.joblib", "evaluation.json"]
    stored = Evaluation.from_json(load_evaluation(*_names(saved)))
    assert stored == evaluate(saved.estimator, FRAME, BINARY)
    assert saved.manifest.metrics == stored.metrics
    assert load_model(*_names(saved)).manifest == saved.manifest
    assert verify_model(*_names(saved)).ok


def test_metrics_that_are_given_win(model_name):
    """The evaluation's are only the default."""
    model = fitted(BINARY)
    evaluation = evaluate(model, FRAME, BINARY)
    assert save_model(model, model_name, FRAME, metrics={}, evaluation=evaluation).manifest.metrics == {}


def test_changed_evaluation_is_refused(model_name, storage_client, settings):
    """A card of numbers that nobody registered would be worse than none."""
    saved = save(model_name)
    blob = storage_client.bucket(settings.model_bucket()).blob(saved.ref.blob_path("evaluation.json"))
    blob.upload_from_string(blob.download_as_bytes().replace(b"accuracy", b"accurazy"))
    with pytest.raises(VerificationError, match=r"evaluation.json of .* is not what was saved"):
        model_card(*_names(saved))


def test_card_says_what_is_known(saved):
    """Use, limits, metrics with intervals, data, lineage, digests, aliases."""
    set_alias(*_names(saved)[:1], "champion", "v1", reason="a test")
    page = Page(model_card(*_names(saved)).html)
    accuracy, (low, high) = saved.manifest.metrics["accuracy"], _evaluation(saved).intervals["accuracy"]
    assert low < accuracy < high
    for text in (
        f"accuracy {accuracy:.4f} {low:.4f} to {high:.4f}",
        "To test cards.",
        "Made-up rows only.",
        "A missing value in x and kind is refused",
        "300 rows with 2 features",
        "SELECT * FROM `shoufianesys.mine.rows`",
        "champion",
        saved.manifest.artifacts[0].sha256,
        "has made no predictions in this environment yet",
        "Confusion matrix",
        "ROC curve",
    ):
        assert text in page.text, text


def test_card_needs_nothing_else_and_runs_nothing(html):
    """One small file: no address to fetch, no script, whatever people wrote into descriptions and data."""
    page = Page(html)
    assert page.addresses == []
    assert "script" not in page.tags
    assert page.tags.count("svg") >= 5
    assert EVIL in page.text
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(html.encode()) < 300_000


@pytest.mark.parametrize(
    ("target", "final"), [(LETTERS, None), (NUMBERS, LinearRegression())], ids=["multiclass", "regression"]
)
def test_card_of_other_tasks(target, final, model_name):
    """Hostile class names included."""
    model = fitted(target, final)
    save_model(model, model_name, FRAME, evaluation=evaluate(model, FRAME, target))
    page = Page(model_card(model_name).html)
    assert page.tags.count("svg") >= 3
    assert "script" not in page.tags


def test_card_without_an_evaluation_says_so(model_name):
    """There is still much to say."""
    save_model(fitted(BINARY), model_name, FRAME)
    page = Page(model_card(model_name).html)
    assert "No evaluation was saved with this version" in page.text
    assert "svg" not in page.tags
    assert load_evaluation(model_name) is None


def test_plots_are_the_same_each_time_and_share_a_page(saved, html):
    """Drawn again, a card differs by its time only; and a clip path of one plot must not cut another."""
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert svgs == [drawing.svg.strip() for drawing in drawings(_evaluation(saved))]
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', svg)) for svg in svgs]
    assert sum(map(len, clips)) == len(set().union(*clips)) > 0


def test_command_writes_stores_and_links_the_card(model_name, tmp_path, capsys, monkeypatch):
    """A second card replaces the first, and the version verifies as before."""
    saved = save(model_name)
    name, version = _names(saved)
    monkeypatch.chdir(tmp_path)
    assert stored_card(saved.ref) is None
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main(["card", name, version])
        assert not done.value.code
    assert f"stored as {stored_card(saved.ref)}" in capsys.readouterr().out
    assert (tmp_path / f"{name}-v1.html").read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit):
        main(["models", "show", name])
    assert f"{name}/v1/card.html" in capsys.readouterr().out
    assert load_manifest(name) == saved.manifest
    assert verify_model(name, version).ok


def test_card_shows_itself_in_a_notebook(saved, html):
    """In a frame that can run nothing."""
    shown = Page(Card(saved.ref, html)._repr_html_())
    assert shown.tags == ["iframe"]


def test_missing_packages_are_named(saved, monkeypatch):
    """The job's image has no matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"needs matplotlib and jinja2, got .*: install the group vis"):
        model_card(*_names(saved))


def test_unknown_version_has_no_card(saved):
    """As for everything else that asks the registry."""
    with pytest.raises(NotFoundError, match="it has v1"):
        model_card(saved.ref.name, "v7")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.81234, "0.8123"), (1309, "1,309"), (123456.7, "123,457"), (0.0, "0"), (1e-7, "1e-07"), (None, "–")],  # noqa: RUF001
    ids=str,
)
def test_numbers_are_short(value, text):
    """Four digits that count, thousands apart."""
    assert content.number(value) == text


def test_features_are_what_training_saw(saved):
    """Shares of levels and quantiles, checked against pandas."""
    number, kind = content.features(saved.manifest)
    assert number.spread == pytest.approx(FRAME["x"].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist())
    start, width, median = number.box
    assert 0 < start < median < start + width < 100
    shares = FRAME["kind"].value_counts(normalize=True) * 100
    assert {share.name: share.percent for share in kind.shares} == pytest.approx(shares.to_dict())


def _names(saved):
    return saved.ref.name, saved.ref.version


def _evaluation(saved):
    return Evaluation.from_json(load_evaluation(*_names(saved)))
