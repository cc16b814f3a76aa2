"""Settings come from the environment and .env; a wrong one is named with what is allowed."""

from pathlib import Path

import pytest

from mlsys.errors import SettingsError
from mlsys.settings import Environment, Settings, get_settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project of its own, with no settings but the defaults."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def test_defaults_are_the_plans(folder):
    """Nothing has to be set for the twin."""
    settings = get_settings()
    assert (settings.env, settings.gcp_project_id, settings.gcp_region) == ("local", "shoufianesys", "us-central1")
    assert [settings.model_bucket(env) for env in Environment] == [
        "ml-models-local",
        "ml-models-dev",
        "ml-models-staging",
        "ml-models-prod",
    ]


def test_example_file_names_every_setting_and_can_be_used_as_it_is(folder):
    """.env.example is complete, and a copy of it works."""
    (folder / ".env").write_text(EXAMPLE.read_text())
    given = {line.partition("=")[0] for line in EXAMPLE.read_text().splitlines() if "=" in line and line[0] != "#"}
    assert given == {name.upper() for name in Settings.model_fields}
    assert get_settings().composer_bucket_dev is None
    with pytest.raises(SettingsError, match="COMPOSER_BUCKET_DEV is not set"):
        get_settings().composer_bucket(Environment.DEV)


def test_environment_wins_over_the_file(folder, monkeypatch):
    """As everywhere else."""
    (folder / ".env").write_text("GCP_PROJECT_ID=from-file\nGCP_REGION=europe-west1\n")  # pragma: allowlist secret
    monkeypatch.setenv("GCP_PROJECT_ID", "from-env")
    assert (get_settings().gcp_project_id, get_settings().gcp_region) == ("from-env", "europe-west1")


def test_file_is_found_from_a_subfolder(folder, monkeypatch):
    """A notebook in notebooks/ shares the project's .env and data folder."""
    (folder / ".env").write_text("MLSYS_ENV=dev\n")
    (folder / "notebooks").mkdir()
    monkeypatch.chdir(folder / "notebooks")
    assert get_settings().env is Environment.DEV
    assert get_settings().data_dir == folder / ".mlsys"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MLSYS_ENV", "prd", "MLSYS_ENV must be 'local', 'dev', 'staging' or 'prod', got 'prd'"),
        ("GCP_PROJECT_ID", "My Project", "GCP_PROJECT_ID must be .*, got 'My Project'"),
        ("GCS_BUCKET_MODELS_DEV", "A", "GCS_BUCKET_MODELS_DEV must be .*, got 'A'"),
    ],
)
def test_wrong_value_is_named(folder, monkeypatch, variable, value, words):
    """Which variable, what was given, what is allowed."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=words):
        get_settings()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"GCP_REGION=us-central1\nthis is no setting\n",
            r"\.env, line 2: expected NAME=value",
        ),
        (b"MLSYS_ENV\n", r"\.env, line 1: expected NAME=value"),
        (b"\xff\xfe\x00", r"\.env cannot be read"),
        (b"MLSYS_ENV=prd\n", r"MLSYS_ENV must be .* got 'prd' \(in .*\.env\)"),
    ],
)
def test_broken_file_is_refused(folder, content, words):
    """A line that would be skipped in silence is an error."""
    (folder / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        get_settings()


def test_import_reads_nothing(folder, monkeypatch):
    """Importing mlsys with broken settings works; only asking for them fails."""
    import subprocess
    import sys

    monkeypatch.setenv("MLSYS_ENV", "nonsense")
    modules = "import mlsys, mlsys.bq, mlsys.clients, mlsys.gcs, mlsys.models, mlsys.predict, mlsys.registry, mlsys.vis"
    subprocess.run([sys.executable, "-c", modules], check=True)
