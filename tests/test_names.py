"""Names are derived once, and hold Google's limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsys import names
from mlsys.errors import ModelRefError, TableIdError
from mlsys.names import ModelRef, TableId

MODEL_NAMES = st.from_regex(r"[a-z](?:[a-z0-9-]{0,48}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("env", "account"),
    [
        ("dev", "titanic-survival-dag-sa-dev"),
        ("staging", "titanic-survival-dag-sa-stg"),
        ("prod", "titanic-survival-dag-sa-prod"),
    ],
)
def test_service_account_is_the_plans_where_google_allows_it(env, account):
    """Only staging, one character too long, is shortened."""
    assert names.service_account_id("titanic-survival", env) == account
    email = f"{account}@shoufianesys.iam.gserviceaccount.com"
    assert names.service_account_email("titanic-survival", env, "shoufianesys") == email


@given(MODEL_NAMES, st.sampled_from(["local", "dev", "staging", "prod"]))
def test_service_account_ids_are_legal(model_name, env):
    """Google wants 6 to 30 characters, lower case, starting with a letter, not ending in a hyphen."""
    import re

    account = names.service_account_id(model_name, env)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{4,28}[a-z0-9])", account)


@given(st.sets(MODEL_NAMES, min_size=2, max_size=30))
def test_service_account_ids_stay_apart(model_names):
    """No two models, and no two environments of one, share an account."""
    pairs = [(m, e) for m in model_names for e in ("dev", "staging", "prod")]
    assert len({names.service_account_id(m, e) for m, e in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "text",
    ["titanic", "a.b", "a.b.c.d", "project..t", "Project.d.t", "p-1234.data-set.t", "p-1234.d.", "p-1234.d.t$x", ""],
)
def test_malformed_table_ids_are_named(text):
    """The message quotes what was received and shows the form."""
    with pytest.raises(TableIdError, match=r"table_id must be 'project\.dataset\.table', got "):
        TableId.parse(text)


@pytest.mark.parametrize(
    "text", ["p-1234.d.t", "`p-1234.d.t`", "p-1234.d_1.naïve tablé", "p-1234.d.t$20240131", "x.com:p-1234.d.t"]
)
def test_table_ids_round_trip(text):
    """What is parsed prints as it was, without backticks."""
    assert str(TableId.parse(text)) == text.strip("`")


@pytest.mark.parametrize("name", ["", "Titanic", "1st", "a_b", "a-", "-a", "x" * 51, "a/b", "a b", "a\n"])
def test_malformed_model_names_are_refused(name):
    """A model names a folder, a Cloud Run job and a label: only what all of them take."""
    with pytest.raises(ModelRefError, match="model_name must be"):
        ModelRef(name, "v1")


@pytest.mark.parametrize("version", ["", "1", "v0", "v01", "V1", "v1.0", "latest", "v1 "])
def test_malformed_versions_are_refused(version):
    """Versions are v1, v2 and so on."""
    with pytest.raises(ModelRefError, match="model_version must be"):
        ModelRef("titanic-survival", version)


@given(MODEL_NAMES, st.integers(1, 10**6), st.sampled_from(["model.joblib", "manifest.json", "a/b.txt"]))
def test_blob_paths_round_trip(name, number, file):
    """From a version to its object names and back."""
    ref = ModelRef.from_number(name, number)
    assert ModelRef.from_blob_path(ref.blob_path(file)) == (ref, file)


@given(st.text())
def test_any_object_name_is_a_version_file_or_not(blob_path):
    """Foreign objects are told apart without an error."""
    found = ModelRef.from_blob_path(blob_path)
    assert found is None or found[0].blob_path(found[1]) == blob_path


@given(st.text(min_size=1))
def test_labels_are_legal(text):
    """Whatever the run id, BigQuery takes the labels."""
    import re

    labels = names.labels(env="dev", model="titanic-survival", model_version="v1", run_id=text)
    assert labels["managed_by"] == "mlsys"
    assert all(re.fullmatch(r"[a-z0-9_-]{0,63}", value) for value in labels.values())


def test_derived_names_are_the_plans():
    """DAG, CI job and folder, as PLAN.md spells them."""
    assert names.dag_id("titanic-survival", "dev") == "titanic-survival-dev"
    assert names.ci_job("titanic-survival", "prod") == "deploy-titanic-survival-prod"
    assert ModelRef("titanic-survival", "v1").uri("ml-models-dev") == "gs://ml-models-dev/titanic-survival/v1/"
    assert str(names.registry_table("shoufianesys", "models")) == "shoufianesys.ml_registry.models"
