"""One twin for the whole session, as users get it: a process of its own that `mlsys.clients` starts."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlsys.local.faults import FaultClient
from mlsys.settings import Settings, get_settings


@dataclass(frozen=True)
class TwinUnderTest:
    """A running twin, and the means to make it misbehave."""

    http: str
    grpc: str
    pid: int
    folder: Path
    faults: FaultClient


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the developer's own settings and data."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # processes that tests start import as fast as users' do
        patch.setenv("MLSYS_MODEL_PACKAGES", "tests")  # tests make models of their own classes
        patch.setenv("MLSYS_DATA_DIR", str(tmp_path_factory.mktemp("twin")))
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def _session_twin(_environment: None) -> Iterator[TwinUnderTest]:
    from mlsys.local import attach

    settings = get_settings()
    addresses = attach(settings.data_dir, project=settings.gcp_project_id, buckets=settings.model_buckets)
    yield TwinUnderTest(addresses.http, addresses.grpc, addresses.pid, settings.data_dir, FaultClient(addresses.http))
    os.kill(addresses.pid, signal.SIGTERM)


@pytest.fixture
def twin(_session_twin: TwinUnderTest) -> Iterator[TwinUnderTest]:
    """The session's twin; faults that a test put in force end with it."""
    yield _session_twin
    _session_twin.faults.clear()


@pytest.fixture
def settings(twin: TwinUnderTest) -> Settings:
    """The settings that point at the twin."""
    return get_settings()


@pytest.fixture
def bigquery_client(settings: Settings):
    """Google's BigQuery client, talking to the twin."""
    from mlsys import clients

    return clients.bigquery_client(settings)


@pytest.fixture
def read_client(settings: Settings):
    """Google's Storage Read client, talking to the twin."""
    from mlsys import clients

    return clients.read_client(settings)


@pytest.fixture
def storage_client(settings: Settings):
    """Google's Cloud Storage client, talking to the twin."""
    from mlsys import clients

    return clients.storage_client(settings)


@pytest.fixture
def set_deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Set for how many seconds calls to the cloud may fail."""

    def set_deadline(seconds: float) -> None:
        monkeypatch.setenv("MLSYS_DEADLINE_S", str(seconds))
        get_settings.cache_clear()

    yield set_deadline
    monkeypatch.delenv("MLSYS_DEADLINE_S", raising=False)
    get_settings.cache_clear()


@pytest.fixture
def dataset(bigquery_client) -> str:
    """A new dataset: ``project.dataset``."""
    path = f"{bigquery_client.project}.test_{uuid.uuid4().hex[:12]}"
    bigquery_client.create_dataset(path)
    return path


@pytest.fixture
def bucket(storage_client) -> str:
    """A new bucket's name."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    storage_client.create_bucket(name)
    return name


@pytest.fixture
def model_name() -> str:
    """A model name that no other test uses."""
    return f"model-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def mlsys(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; return its exit code and what it printed."""
    from mlsys.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as exc:
            code = int(exc.code or 0)
        return code, *capsys.readouterr()

    return run
