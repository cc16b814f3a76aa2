"""Aliases: names such as ``champion`` for one version of a model. An alias moves by one more event, never by an edit.

Two people who move one alias at once must not both succeed, and BigQuery has neither unique keys nor locks: statements
that only insert never conflict, a ``MERGE`` among them. But a job's id is given once. So the move with sequence n of an
alias is made by the job that is named after the alias and n, and whoever comes second is told who came first.
BigQuery forgets a job after half a year; by then its event is long in the table, and nobody asks for that turn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from mlsys import clients
from mlsys.errors import ConflictError, InvalidNameError, NotFoundError
from mlsys.names import ModelRef, as_version, check_alias, check_model_name, registry_table
from mlsys.registry.events import insertion, job_config, new_event
from mlsys.registry.lookup import aliases_of, find_version, retired_versions, select
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import pandas as pd

CHAMPION = "champion"
NONE = "none"  # what a caller expects of an alias that points to no version

_ASSIGNMENT = "model_name, alias, model_version, valid_from, event_type, previous_version, actor, reason, sequence"


@dataclass(frozen=True)
class Move:
    """One move of an alias: to which version (None: it is removed), from which one, when, by whom and why."""

    event_id: str
    event_type: str
    model_version: str | None
    previous_version: str | None
    event_timestamp: datetime
    actor: str
    reason: str
    sequence: int


def set_alias(
    model_name: str,
    alias: str,
    model_version: str,
    *,
    reason: str,
    actor: str | None = None,
    expected: str | None = None,
    settings: Settings | None = None,
) -> Move:
    """Let an alias point to a registered version from now on. Where it points there already, nothing happens.

    Parameters
    ----------
    alias
        Lower-case letters, digits and hyphens, such as ``champion``.
    model_version
        ``v3``, ``3``, ``latest``, or an alias: the version that it points to now.
    actor
        Who does it; by default the owner of this process's credentials.
    expected
        Move it only away from this version (``none``: only if it points to none). Without it, only a move that comes
        between this function's own look and its write is in the way.

    Returns
    -------
    Move
        The move that made the alias what it is.

    Raises
    ------
    ConflictError
        Somebody else moved the alias; the message says who, where to, when and why. Or the version is retired. Nothing
        was changed.
    NotFoundError
        There is no such version; the message names those that there are.

    Examples
    --------
    >>> set_alias("titanic-survival", "champion", "v3", reason="2 points more accuracy")  # doctest: +SKIP
    """
    it = _Alias(model_name, alias, settings or get_settings())
    found = find_version(model_name, model_version, settings=it.settings)
    if found.retired:
        raise ConflictError(
            f"{found.ref} is retired in {it.settings.env}: nothing was changed; `mlsys models reinstate` takes it back"
        )
    return it.move("alias_set", found.ref.version, it.latest(expected), reason, actor)


def remove_alias(
    model_name: str,
    alias: str,
    *,
    reason: str,
    actor: str | None = None,
    expected: str | None = None,
    settings: Settings | None = None,
) -> Move:
    """Let an alias point to no version any more; parameters and errors as for `set_alias`. Its history stays."""
    it = _Alias(model_name, alias, settings or get_settings())
    latest = it.latest(expected)
    if not latest:
        raise NotFoundError(_no_alias(model_name, alias, it.settings))
    return it.move("alias_removed", None, latest, reason, actor)


def rollback(
    model_name: str,
    alias: str = CHAMPION,
    *,
    reason: str,
    actor: str | None = None,
    expected: str | None = None,
    settings: Settings | None = None,
) -> Move:
    """Let an alias point to the version that it had before the current one; of a removed alias, to its last one.

    A second rollback goes one further back: a version that was rolled back is left out as if it had never been set.
    After v1, v2, v3, two rollbacks lead to v1; after v1, v2, rollback, v3, one does. Retired versions are left out too.

    Parameters
    ----------
    expected
        The version to get rid of. Pass it where several people may react to one bad version: of two rollbacks, one
        shortly after the other, the second would go one version further back.

    Raises
    ------
    ConflictError
        Somebody else moved the alias, as for `set_alias`.
    NotFoundError
        There is no such alias, or no earlier version.
    """
    it = _Alias(model_name, alias, settings or get_settings())
    moves = it.moves(expected)
    if not moves:
        raise NotFoundError(_no_alias(model_name, alias, it.settings))
    current = moves[-1].model_version
    standing = _standing(moves)[: None if current is None else -1]
    out = {current, *retired_versions(model_name, settings=it.settings)}
    if not (left := [version for version in standing if version not in out]):
        raise NotFoundError(
            f"{it} has no version before {current or 'its last one'} to go back to, but for retired ones: see `mlsys"
            f" history {model_name}`"
        )
    return it.move("rolled_back", left[-1], moves, reason, actor)


def resolve_alias(
    model_name: str, alias: str = CHAMPION, *, at: datetime | None = None, settings: Settings | None = None
) -> ModelRef:
    """Return the version that an alias points to in this environment, or pointed to at the moment ``at``.

    Raises
    ------
    NotFoundError
        It points to none; the message names the aliases that do.
    """
    check_alias(alias)
    settings = settings or get_settings()
    frame = list_aliases(check_model_name(model_name), at=at, settings=settings)
    versions = dict(zip(frame["alias"], frame["model_version"], strict=True))
    if alias not in versions:
        raise NotFoundError(_no_alias(model_name, alias, settings, at, versions))
    return ModelRef(model_name, versions[alias])


def list_aliases(
    model_name: str | None = None, *, at: datetime | None = None, settings: Settings | None = None
) -> "pd.DataFrame":
    """Return what each alias of this environment points to, now or at the moment ``at``, since when and why.

    Columns: model_name, alias, model_version, valid_from, event_type, previous_version, actor, reason, sequence.
    """
    settings, model_name, order = settings or get_settings(), model_name or "", "model_name, alias"
    if at is None:
        return select(_ASSIGNMENT, "aliases", model_name, settings, order=order)
    if at.tzinfo is None:
        raise InvalidNameError(f"at must have a time zone, got {at.isoformat()}: whose {at:%H:%M} is meant?")
    where = "valid_from <= @at AND (valid_to > @at OR valid_to IS NULL)"
    return select(_ASSIGNMENT, "alias_history", model_name, settings, where=where, order=order, at=at)


def history(
    model_name: str, *, alias: str | None = None, last: int | None = None, settings: Settings | None = None
) -> "pd.DataFrame":
    """Return all that happened to a model in this environment, the first event first: registrations, moves, promotions.

    Columns: event_timestamp, event_type, model_version, alias, previous_version, actor, reason, sequence, event_id,
    details (JSON). With ``alias``, its moves alone; with ``last``, so many of the latest events.

    Raises
    ------
    NotFoundError
        The registry has no such model; the message names those that it has.
    """
    settings = settings or get_settings()
    frame = select(
        "event_timestamp, event_type, model_version, alias, previous_version, actor, reason, sequence, event_id,"
        " details",
        "history",
        check_model_name(model_name),
        settings,
        where="(@alias = '' OR alias = @alias)",
        order="event_timestamp DESC, sequence DESC" + ("" if last is None else f" LIMIT {int(last)}"),
        alias=check_alias(alias) if alias else "",
    )
    if frame.empty:
        find_version(model_name, settings=settings)  # or say which models there are
    return frame[::-1].reset_index(drop=True)


@dataclass(frozen=True)
class _Alias:
    """One alias of a model in this environment."""

    model_name: str
    name: str
    settings: Settings

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        check_alias(self.name)

    def __str__(self) -> str:
        return f"{self.name} of {self.model_name} in {self.settings.env}"

    def moves(self, expected: str | None = None) -> list[Move]:
        """Return all moves, the first one first; refuse when the last is not to the version that is expected."""
        return self._expected(self._select("sequence"), expected)

    def latest(self, expected: str | None = None) -> list[Move]:
        """Return the last move alone, if there is one; refuse as `moves` does."""
        return self._expected(self._select("sequence DESC LIMIT 1"), expected)

    def move(
        self, event_type: str, version: str | None, before: Sequence[Move], reason: str, actor: str | None
    ) -> Move:
        """Write the move that comes after the last one of ``before``, and return it."""
        last = before[-1] if before else None
        if last and last.model_version == version:
            return last
        event = new_event(
            event_type, self.model_name, self.settings, actor, alias=self.name, model_version=version, reason=reason,
            previous_version=last.model_version if last else None, sequence=last.sequence + 1 if last else 1,
        )  # fmt: skip
        self._write(event, last.event_timestamp if last else None)
        (made,) = self._select("sequence", "event_id = @event_id", event_id=event["event_id"])
        return made

    def _select(self, order: str, where: str = "TRUE", **parameters: str | int) -> list[Move]:
        frame = select(
            ", ".join(Move.__dataclass_fields__),
            "events",
            self.model_name,
            self.settings,
            where=f"alias = @alias AND sequence IS NOT NULL AND {where}",
            order=order,
            alias=self.name,
            **parameters,
        )
        frame = frame.astype(object).where(frame.notna(), None)
        return [Move(**row) for row in frame.to_dict("records")]

    def _expected(self, moves: list[Move], expected: str | None) -> list[Move]:
        current = (moves[-1].model_version if moves else None) or NONE
        if expected is None or current == (expected if expected == NONE else as_version(expected)):
            return moves
        raise ConflictError(
            self._told(moves[-1]) if moves else f"{self} points to no version, expected {expected}: nothing was changed"
        )

    def _write(self, event: dict, after: datetime | None) -> None:
        from mlsys.bq.errors import explained
        from mlsys.bq.jobs import run_in_turn

        sequence, client = event["sequence"], clients.bigquery_client(self.settings)

        def statement(winners: Sequence) -> tuple[str, list]:
            if winners:
                raise ConflictError(self._lost_to(winners[-1].job_id, sequence))
            return insertion(event, self.settings, after=after)

        chain = f"mlsys_alias_{self.settings.env}_{self.model_name}_{self.name}_{sequence}"
        with explained(client, writes=registry_table(self.settings.gcp_project_id, "events")):
            run_in_turn(client, chain, job_config(event), statement, token=event["event_id"])

    def _lost_to(self, job_id: str, sequence: int) -> str:
        for move in self._select("sequence", "sequence = @sequence", sequence=sequence):
            return self._told(move)
        return (
            f"job {job_id} made move {sequence} of {self}, but ml_registry.events lacks it: "
            "was the table edited or restored?"
        )

    def _told(self, move: Move) -> str:
        where = f"moved to {move.model_version}" if move.model_version else "removed"
        return (
            f"{self} was {where} by {move.actor} at {move.event_timestamp:%Y-%m-%d %H:%M:%S} UTC ({move.reason}): "
            f"nothing was changed; see `mlsys history {self.model_name}`"
        )


def _standing(moves: Sequence[Move]) -> list[str]:
    """Return the versions that an alias was set to, without those that were rolled back; the last one first to go."""
    stack: list[str] = []
    for move in moves:
        if move.event_type == "rolled_back":
            while stack and stack[-1] != move.model_version:
                stack.pop()
        elif move.model_version and stack[-1:] != [move.model_version]:
            stack.append(move.model_version)
    return stack


def _no_alias(
    model_name: str,
    alias: str,
    settings: Settings,
    at: datetime | None = None,
    there: dict[str, str] | None = None,
) -> str:
    there = aliases_of(model_name, settings=settings) if there is None else there
    named = ", ".join(f"{name} ({version})" for name, version in there.items()) or "no alias"
    when = f" at {at.isoformat()}" if at else ""
    return f"{model_name} has no alias {alias!r} in {settings.env}{when}; it has {named}"
