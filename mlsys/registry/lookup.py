"""Read the registry: one version, or all of them."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlsys import clients
from mlsys.errors import NotFoundError, VerificationError
from mlsys.names import ModelRef, check_model_name, registry_table
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd

LATEST = "latest"


@dataclass(frozen=True)
class Registration:
    """What the registry vouches for: a version and the SHA-256 of its manifest."""

    ref: ModelRef
    gcs_uri: str
    manifest_sha256: str

    @property
    def bucket_name(self) -> str:
        """The bucket that holds the version."""
        return self.gcs_uri.removeprefix("gs://").partition("/")[0]


def find_version(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Registration:
    """Return the registration of a model's version in this environment.

    Parameters
    ----------
    model_version
        ``v1``, ``v2`` … or ``latest``, the highest registered one.

    Raises
    ------
    NotFoundError
        The registry has no such model or version; the message names those that it has.
    """
    settings = settings or get_settings()
    check_model_name(model_name)
    if model_version != LATEST:
        ModelRef(model_name, model_version)  # refuse a malformed version before the network
    rows = _registrations(model_name, settings)
    wanted = [r for r in rows if model_version in (LATEST, r.ref.version)]
    if not wanted:
        raise NotFoundError(_what_there_is(model_name, model_version, rows, settings))
    return wanted[-1]


def list_versions(model_name: str | None = None, *, settings: Settings | None = None) -> "pd.DataFrame":
    """Return the registered versions of this environment, one row each, by model and version.

    Columns: environment, model_name, model_version, upload_timestamp, file_size (bytes), uploader, training_rows,
    metrics (JSON), description.
    """
    return _select(
        "environment, model_name, model_version, upload_timestamp, file_size, uploader, training_rows, metrics,"
        " description",
        model_name or "",
        settings or get_settings(),
    )


def wait_for_version(
    ref: ModelRef, *, manifest_sha256: str, timeout_s: float = 60.0, settings: Settings | None = None
) -> Registration:
    """Wait until the registry vouches for ``ref`` with the manifest of that SHA-256, and return the registration.

    Raises
    ------
    NotFoundError
        The version is not there after ``timeout_s`` seconds: the registry function is not deployed, or it failed.
    VerificationError
        It is there, but after ``timeout_s`` seconds still with another manifest.
    """
    deadline, pause = time.monotonic() + timeout_s, 0.1
    while True:
        found = _registered(ref, settings or get_settings())
        if found is not None and found.manifest_sha256 == manifest_sha256:
            return found
        if time.monotonic() + pause > deadline:
            raise _not_registered(ref, manifest_sha256, found, timeout_s)
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _registered(ref: ModelRef, settings: Settings) -> Registration | None:
    return next((found for found in _registrations(ref.name, settings) if found.ref == ref), None)


def _not_registered(
    ref: ModelRef, wanted: str, found: Registration | None, timeout_s: float
) -> NotFoundError | VerificationError:
    if found is None:
        return NotFoundError(
            f"{ref} was saved but is not in the registry after {timeout_s:.0f} s: look at the log of the"
            " registry function (see scripts/model_registry/README.md)"
        )
    return VerificationError(
        f"another manifest is registered for {ref} (SHA-256 {found.manifest_sha256[:12]}…, wanted {wanted[:12]}…):"
        " this one cannot be loaded, save the model again"
    )


def _registrations(model_name: str, settings: Settings) -> list[Registration]:
    frame = _select("model_version, gcs_uri, manifest_sha256", model_name, settings)
    return [
        Registration(ModelRef(model_name, version), uri, digest)
        for version, uri, digest in frame.itertuples(index=False)
    ]


def _select(columns: str, model_name: str, settings: Settings) -> "pd.DataFrame":
    from mlsys.bq import bq_get  # here, because the registry function imports this package and needs no pandas

    table = registry_table(settings.gcp_project_id, "models")
    return bq_get(
        f"SELECT {columns} FROM {table.sql}"  # noqa: S608
        " WHERE environment = @environment AND (@model_name = '' OR model_name = @model_name)"
        " ORDER BY model_name, LENGTH(model_version), model_version",
        parameters={"environment": str(settings.env), "model_name": model_name},
        progress=False,
        client=clients.bigquery_client(settings),
        read_client=clients.read_client(settings),
    )


def _what_there_is(model_name: str, model_version: str, rows: list[Registration], settings: Settings) -> str:
    if rows:
        versions = ", ".join(r.ref.version for r in rows)
        return f"{model_name}/{model_version} is not in the registry of {settings.env}; it has {versions}"
    known = sorted(set(list_versions(settings=settings)["model_name"]))
    there = f"it has {', '.join(known[:10])}" if known else "it is empty: save a model with mlsys.models.save_model"
    return f"no model {model_name!r} in the registry of {settings.env}; {there}"
