"""Check versions from the registry's row to the golden rows, and say what differs."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.errors import AccessError, MlsysError, VerificationError
from mlsys.manifest import Artifact, Manifest
from mlsys.models import environment
from mlsys.models.model import GoldenDifference, Model
from mlsys.models.store import estimator_in, registered_manifest, verified_file
from mlsys.names import LATEST, ModelRef
from mlsys.registry.lookup import Registration, find_version, list_versions, registered_columns
from mlsys.registry.register import columns_of
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    from google.cloud.storage import Client as StorageClient

CHECKS = ("manifest", "registry row", "files", "environment", "loads", "golden rows")
OK = "ok"
FAILED = "failed"
NOT_CHECKED = "not checked"  # because a check before it failed


@dataclass(frozen=True)
class Verification:
    """What came of the checks of one version: of each of ``CHECKS``, whether it is ``OK``; and what differs."""

    ref: ModelRef
    checks: dict[str, str]
    difference: str = ""
    golden_differences: tuple[GoldenDifference, ...] = ()

    @property
    def failed(self) -> str:
        """The check that failed; empty when the version is in order."""
        return next((name for name, result in self.checks.items() if result == FAILED), "")

    @property
    def ok(self) -> bool:
        """Whether the version is what was registered, and works here."""
        return set(self.checks.values()) == {OK}

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can say it."""
        return {
            "model_name": self.ref.name,
            "model_version": self.ref.version,
            "ok": self.ok,
            "checks": self.checks,
            "difference": self.difference,
            "golden_rows": [asdict(difference) for difference in self.golden_differences],
        }


def verify_model(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Verification:
    """Check one version: its manifest, row, files and environment, that it loads, and its golden rows.

    The checks stop at the first that fails: what a check before did not vouch for is not read, let alone unpickled.

    Raises
    ------
    NotFoundError
        The registry has no such version.

    Examples
    --------
    >>> verify_model("titanic-survival", "v1").ok  # doctest: +SKIP
    True
    """
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    run = _Run(registration, settings, clients.storage_client(settings))
    checks = dict.fromkeys(CHECKS, NOT_CHECKED)
    with tempfile.TemporaryDirectory() as folder:
        for name, check in zip(CHECKS, run.checks(Path(folder)), strict=True):
            try:
                check()
            except AccessError:
                raise  # about the caller, not about the version
            except MlsysError as exc:
                checks[name] = FAILED
                return Verification(registration.ref, checks, str(exc), run.golden_differences)
            checks[name] = OK
    return Verification(registration.ref, checks)


def verify_models(model_name: str | None = None, *, settings: Settings | None = None) -> Iterator[Verification]:
    """Check every registered version of this environment, or of one model in it, one after the other."""
    settings = settings or get_settings()
    frame = list_versions(model_name, settings=settings)
    for name, version in frame[["model_name", "model_version"]].itertuples(index=False):
        yield verify_model(name, version, settings=settings)


class _Run:
    def __init__(self, registration: Registration, settings: Settings, client: "StorageClient") -> None:
        self.registration, self.settings, self.client = registration, settings, client
        self.manifest: Manifest
        self.model: Model
        self.golden_differences: tuple[GoldenDifference, ...] = ()

    def checks(self, folder: Path) -> list[Callable[[], None]]:
        return [
            self._manifest,
            self._row,
            lambda: self._files(folder),
            lambda: environment.check(self.manifest),
            lambda: self._loads(folder),
            self._golden_rows,
        ]

    def _manifest(self) -> None:
        self.manifest = registered_manifest(self.registration, self.settings, self.client)

    def _row(self) -> None:
        said = columns_of(self.manifest)
        row = registered_columns(self.registration.ref, list(said), settings=self.settings)
        if differences := [
            f"{name} expected {_short(expected)}, found {_short(found)}"
            for name, expected, found in ((n, _comparable(n, v), _comparable(n, row[n])) for n, v in said.items())
            if expected != found
        ]:
            raise VerificationError(f"the registry's row is not what the manifest says: {'; '.join(differences)}")

    def _files(self, folder: Path) -> None:
        for artifact in self.manifest.artifacts:
            verified_file(artifact, self.manifest.ref, self.registration.bucket_name, folder, self.client)

    def _loads(self, folder: Path) -> None:
        self.model = Model(self.manifest, estimator_in(folder, self.manifest, self.settings))

    def _golden_rows(self) -> None:
        self.golden_differences = tuple(self.model.golden_differences())
        if self.golden_differences:
            raise VerificationError("; ".join(map(str, self.golden_differences)))


def _comparable(column: str, value: Any) -> Any:
    """Return a cell so that what was sent equals what BigQuery gives back."""
    import pandas as pd

    if column == "artifacts":
        return [{name: file[name] for name in Artifact.model_fields} for file in value]
    if column in ("metrics", "packages", "signature"):
        return _normal(json.loads(value))
    return None if not isinstance(value, list) and pd.isna(value) else value


def _normal(value: Any) -> Any:
    # BigQuery writes numbers its own way, and some are registered as text (see register_model.sql).
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    with suppress(TypeError, ValueError):
        return value if isinstance(value, bool) else repr(float(value))
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
