"""Retire a version: it stays where it is, for reruns of past days, but nothing new begins with it."""

from mlsys.errors import ConflictError
from mlsys.names import ModelRef
from mlsys.registry.events import record_event
from mlsys.registry.lookup import Registration, aliases_of, find_version, select
from mlsys.settings import Settings, get_settings


def retire(
    model_name: str, model_version: str, *, reason: str, actor: str | None = None, settings: Settings | None = None
) -> Registration:
    """Take a version out of use: it is not ``latest``, gets no alias, is not rolled back to and not promoted.

    It can still be loaded by its number, as a rerun of a past day needs. Done twice, it is done once.

    Raises
    ------
    ConflictError
        An alias points to it. Nothing was changed.
    NotFoundError
        There is no such version; the message names those that there are.

    Examples
    --------
    >>> retire("titanic-survival", "v2", reason="trained on rows that were wrong")  # doctest: +SKIP
    """
    settings = settings or get_settings()
    found = find_version(model_name, model_version, settings=settings)
    names = [
        alias for alias, version in aliases_of(model_name, settings=settings).items() if version == found.ref.version
    ]
    if names:
        raise ConflictError(
            f"{found.ref} is {' and '.join(names)} in {settings.env}: nothing was changed; move the alias first, by"
            " `mlsys alias set` or `mlsys rollback`"
        )
    _record("retired", found.ref, reason, actor, settings)
    return found


def reinstate(
    model_name: str, model_version: str, *, reason: str, actor: str | None = None, settings: Settings | None = None
) -> Registration:
    """Take back the retirement of a version; parameters and errors as for `retire`. Its history stays."""
    settings = settings or get_settings()
    found = find_version(model_name, model_version, settings=settings)
    _record("reinstated", found.ref, reason, actor, settings)
    return found


def _record(event_type: str, ref: ModelRef, reason: str, actor: str | None, settings: Settings) -> None:
    """Write one event, unless the version is in that state: callers that saw the same events name the same job."""
    seen = select(
        "event_type", "events", ref.name, settings,
        where="event_type IN ('retired', 'reinstated') AND model_version = @model_version",
        order="event_timestamp", model_version=ref.version,
    )["event_type"].tolist()  # fmt: skip
    if (seen[-1:] == ["retired"]) == (event_type == "retired"):
        return
    job_id = f"mlsys_{event_type}_{settings.env}_{ref.name}_{ref.version}_{len(seen)}"
    record_event(event_type, ref.name, ref.version, reason=reason, actor=actor, job_id=job_id, settings=settings)
