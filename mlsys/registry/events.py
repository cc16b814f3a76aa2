"""Write to ``ml_registry.events``, a table that only grows."""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.names import ModelRef, check_model_name, labels, registry_table
from mlsys.registry import files
from mlsys.registry.lookup import select
from mlsys.settings import Environment, Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd
    from google.cloud.bigquery import QueryJobConfig, ScalarQueryParameter

_PARAMETER_TYPES = {"INTEGER": "INT64", "JSON": "STRING"}  # the SQL parses JSON from text


def record_event(
    event_type: str,
    model_name: str,
    model_version: str,
    *,
    reason: str | None = None,
    actor: str | None = None,
    details: Mapping[str, Any] | None = None,
    environment: Environment | None = None,
    job_id: str | None = None,
    settings: Settings | None = None,
) -> None:
    """Add an event about a version that moves no alias: ``promoted``, ``retired``, ``refused``.

    Parameters
    ----------
    actor
        Who did it; by default the owner of this process's credentials.
    environment
        Where it happened, when that is not this process's environment.
    job_id
        Name of the job that writes the event: with the same name, it is written once however often this is called.
    """
    from mlsys.bq.errors import explained
    from mlsys.bq.jobs import run_query

    settings = settings or get_settings()
    event = new_event(event_type, model_name, settings, actor, model_version=model_version, reason=reason)
    event |= {"environment": str(environment or settings.env), "details": json.dumps(details) if details else None}
    client, config = clients.bigquery_client(settings), job_config(event)
    query, config.query_parameters = insertion(event, settings)
    with explained(client, writes=registry_table(settings.gcp_project_id, "events")):
        run_query(client, query, config, job_id)


def find_events(event_type: str, ref: ModelRef, *, settings: Settings | None = None) -> "pd.DataFrame":
    """Return the events of a type about a version in this environment, the first one first.

    Columns: event_timestamp, actor, reason, details (JSON).
    """
    return select(
        "event_timestamp, actor, reason, details",
        "events",
        ref.name,
        settings or get_settings(),
        where="event_type = @event_type AND model_version = @model_version",
        order="event_timestamp",
        event_type=event_type,
        model_version=ref.version,
    )


def new_event(
    event_type: str, model_name: str, settings: Settings, actor: str | None, **fields: str | int | None
) -> dict[str, Any]:
    """Return an event of this environment under an id of its own, columns to values."""
    from mlsys.gcs.io import uploader

    return {
        "event_id": uuid.uuid4().hex,
        "event_type": event_type,
        "environment": str(settings.env),
        "model_name": check_model_name(model_name),
        "actor": actor or uploader(clients.bigquery_client(settings)),
        **fields,
    }


def insertion(
    event: Mapping[str, Any], settings: Settings, *, after: datetime | None = None
) -> "tuple[str, list[ScalarQueryParameter]]":
    """Return the statement that writes an event, at a time later than ``after``, and its parameters."""
    from google.cloud.bigquery import ScalarQueryParameter

    columns = {field["name"]: field["type"] for field in files.schema("events") if field["name"] != "event_timestamp"}
    values = {**event, "after": after}
    parameters = [
        ScalarQueryParameter(name, _PARAMETER_TYPES.get(kind, kind), values.get(name))
        for name, kind in {**columns, "after": "TIMESTAMP"}.items()
    ]
    return files.sql("record_event", settings.gcp_project_id), parameters


def job_config(event: Mapping[str, Any]) -> "QueryJobConfig":
    """Return the configuration of the job that writes an event."""
    from google.cloud.bigquery import QueryJobConfig

    version = event.get("model_version") or ""
    return QueryJobConfig(labels=labels(env=event["environment"], model=event["model_name"], model_version=version))
