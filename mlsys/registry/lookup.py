"""Read the registry: one version, or all of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.errors import NotFoundError, VerificationError
from mlsys.names import LATEST, ModelRef, as_version, check_model_name, is_alias, registry_table
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd

_BY_VERSION = "model_name, LENGTH(model_version), model_version"


@dataclass(frozen=True)
class Registration:
    """What the registry vouches for: a version and the SHA-256 of its manifest."""

    ref: ModelRef
    gcs_uri: str
    manifest_sha256: str
    retired: bool = False

    @property
    def bucket_name(self) -> str:
        """The bucket that holds the version."""
        return self.gcs_uri.removeprefix("gs://").partition("/")[0]


def find_version(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Registration:
    """Return the registration of a model's version in this environment.

    Parameters
    ----------
    model_version
        ``v3`` or ``3``, an alias such as ``champion``, or ``latest``, the highest registered one that is not retired.

    Raises
    ------
    NotFoundError
        The registry has no such model, version or alias; the message names those that it has.

    Examples
    --------
    >>> find_version("titanic-survival", "champion").ref  # doctest: +SKIP
    ModelRef(name='titanic-survival', version='v3')
    """
    settings = settings or get_settings()
    wanted = as_version(model_version)  # a malformed one is refused before the network
    check_model_name(model_name)
    if is_alias(wanted):  # looked up before the versions: it may point to one that is registered right now
        wanted = aliases_of(model_name, settings=settings).get(wanted, wanted)
    rows = {row.ref.version: row for row in _registrations(model_name, settings)}
    if wanted == LATEST and (standing := [row for row in rows.values() if not row.retired]):
        return standing[-1]
    if wanted not in rows:
        raise NotFoundError(_what_there_is(model_name, model_version, list(rows), settings))
    return rows[wanted]


def aliases_of(model_name: str, *, settings: Settings | None = None) -> dict[str, str]:
    """Return the aliases of a model in this environment: each with the version that it points to now."""
    frame = select("alias, model_version", "aliases", model_name, settings or get_settings(), order="alias")
    return dict(frame.itertuples(index=False))


def list_versions(
    model_name: str | None = None, *, last: int | None = None, settings: Settings | None = None
) -> "pd.DataFrame":
    """Return the registered versions of this environment, one row each, by model and version; with ``last``, so many.

    Those that were uploaded last are taken.

    Columns: environment, model_name, model_version, aliases (list), upload_timestamp, file_size (bytes), uploader,
    training_rows, promoted_from, promoted_by, promoted_timestamp, retired_timestamp, metrics (JSON), description.
    """
    frame = select(
        "environment, model_name, model_version, aliases, upload_timestamp, file_size, uploader, training_rows,"
        " promoted_from, promoted_by, promoted_timestamp, retired_timestamp, metrics, description",
        "versions",
        model_name or "",
        settings or get_settings(),
        order=_BY_VERSION if last is None else f"upload_timestamp DESC LIMIT {int(last)}",
    )
    number = frame["model_version"].str[1:].astype("int64")
    return frame.assign(number=number).sort_values(["model_name", "number"], ignore_index=True).drop(columns="number")


def retired_versions(model_name: str, *, settings: Settings | None = None) -> set[str]:
    """Return the versions of a model that are retired in this environment."""
    return {row.ref.version for row in _registrations(model_name, settings or get_settings()) if row.retired}


def registered_columns(ref: ModelRef, columns: Sequence[str], *, settings: Settings | None = None) -> dict[str, Any]:
    """Return columns of a version's row as `bq_get` gives them; raise `NotFoundError` when there is no such row."""
    row = {"where": "model_version = @model_version", "order": "model_version", "model_version": ref.version}
    frame = select(", ".join(columns), "models", ref.name, settings or get_settings(), **row)
    if frame.empty:
        raise NotFoundError(f"{ref} is not in the registry")
    return {name: frame[name].iloc[0] for name in columns}


def registration_of(ref: ModelRef, *, settings: Settings | None = None) -> Registration | None:
    """Return the registration of one version in this environment, or None when it is not registered."""
    return _registered(ref, settings or get_settings())


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
    columns = "model_version, gcs_uri, manifest_sha256, retired_timestamp IS NOT NULL"
    frame = select(columns, "versions", model_name, settings, order=_BY_VERSION)
    return [
        Registration(ModelRef(model_name, version), uri, digest, bool(retired))
        for version, uri, digest, retired in frame.itertuples(index=False)
    ]


def select(
    columns: str, table: str, model_name: str, settings: Settings, *, where: str = "TRUE", order: str, **parameters: Any
) -> "pd.DataFrame":
    """Return rows of a registry table or view: those of this environment, and of one model or (``""``) of all."""
    from mlsys.bq import bq_get  # here, because the registry function imports this package and needs no pandas
    from mlsys.registry.frames import RegistryFrame

    rows = bq_get(
        f"SELECT {columns} FROM {registry_table(settings.gcp_project_id, table).sql}"  # noqa: S608
        f" WHERE environment = @environment AND (@model_name = '' OR model_name = @model_name) AND {where}"
        f" ORDER BY {order}",
        parameters={"environment": str(settings.env), "model_name": model_name, **parameters},
        progress=False,
        client=clients.bigquery_client(settings),
        read_client=clients.read_client(settings),
    )
    return RegistryFrame(rows)


def _what_there_is(model_name: str, model_version: str, versions: list[str], settings: Settings) -> str:
    if versions:
        shown = [f"… ({len(versions) - 20} more)", *versions[-20:]] if len(versions) > 20 else versions
        shown += [f"{alias} ({version})" for alias, version in aliases_of(model_name, settings=settings).items()]
        return f"{model_name}/{model_version} is not in the registry of {settings.env}; it has {', '.join(shown)}"
    known = sorted(set(list_versions(settings=settings)["model_name"]))
    there = f"it has {', '.join(known[:10])}" if known else "it is empty: save a model with mlsys.models.save_model"
    return f"no model {model_name!r} in the registry of {settings.env}; {there}"
