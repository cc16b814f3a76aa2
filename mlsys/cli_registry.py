"""The commands about what the registry holds: ``mlsys alias``, ``rollback``, ``history``, ``runs``."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mlsys.cli_options import AliasName, Json, Model, OneModel, Reason, alias_names, complete_versions
from mlsys.terminal import Format, show_rows, to_json

if TYPE_CHECKING:
    import pandas as pd

    from mlsys.registry import Move

alias = typer.Typer(
    help="Let names such as champion point to versions of a model.\n\n"
    "[bold]Example:[/bold] mlsys alias set titanic-survival champion v3 --reason 'two points more accuracy'",
    no_args_is_help=True,
)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the ``mlsys`` command."""
    app.add_typer(alias, name="alias")
    app.command()(rollback)
    app.command()(history)
    app.command()(runs)


_Expected = Annotated[
    str | None,
    typer.Option("--expect", help="Only if it points to this version now; none: to no version.", metavar="VERSION"),
]


@alias.command("set")
def set_(
    model_name: Model,
    alias_name: AliasName,
    model_version: Annotated[
        str, typer.Argument(help="v1, v2, …, latest, or another alias.", autocompletion=complete_versions)
    ],
    reason: Reason,
    expected: _Expected = None,
    as_json: Json = False,
) -> None:
    """Let an alias point to a version. Of two people who move it at once, one is told.

    [bold]Example:[/bold] mlsys alias set titanic-survival champion v3 --reason 'two points more accuracy'
    """
    from mlsys.registry import set_alias

    move = set_alias(model_name, alias_name, model_version, reason=reason, expected=expected)
    _tell(move, model_name, alias_name, as_json)


@alias.command()
def remove(
    model_name: Model, alias_name: AliasName, reason: Reason, expected: _Expected = None, as_json: Json = False
) -> None:
    """Let an alias point to no version any more. Its history stays.

    [bold]Example:[/bold] mlsys alias remove titanic-survival challenger --reason 'the trial is over'
    """
    from mlsys.registry import remove_alias

    move = remove_alias(model_name, alias_name, reason=reason, expected=expected)
    _tell(move, model_name, alias_name, as_json)


@alias.command("list")
def list_(
    model_name: OneModel = None,
    at: Annotated[datetime | None, typer.Option(help="What they pointed to at this moment, in UTC.")] = None,
    as_json: Json = False,
) -> None:
    """List what each alias points to in this environment, since when, by whom and why.

    [bold]Example:[/bold] mlsys alias list titanic-survival --at 2026-03-03
    """
    from mlsys.registry import list_aliases

    frame = list_aliases(model_name, at=at and at.replace(tzinfo=UTC))
    _show(
        frame if as_json else frame[["model_name", "alias", "model_version", "valid_from", "actor", "reason"]], as_json
    )


def rollback(
    model_name: Model,
    reason: Reason,
    alias_name: Annotated[
        str, typer.Option("--alias", help="The alias to move.", autocompletion=alias_names)
    ] = "champion",
    expected: _Expected = None,
    as_json: Json = False,
) -> None:
    """Let the champion, or another alias, point to the version that it had before.

    A second rollback goes one further back. Say with --expect which version is to go, where others may react too.

    [bold]Example:[/bold] mlsys rollback titanic-survival --reason 'v3 scores children wrongly' --expect v3
    """
    from mlsys.registry import rollback as roll_back

    move = roll_back(model_name, alias_name, reason=reason, expected=expected)
    _tell(move, model_name, alias_name, as_json)


def history(
    model_name: Model,
    alias_name: Annotated[
        str | None, typer.Option("--alias", help="Only this alias.", autocompletion=alias_names)
    ] = None,
    last: Annotated[int, typer.Option(help="Print at most so many of the latest events.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """Show what happened to a model in this environment: registrations, moves of aliases, promotions.

    [bold]Example:[/bold] mlsys history titanic-survival
    """
    from mlsys.registry import history as events_of

    frame = events_of(model_name, alias=alias_name, last=last + 1)
    if len(frame) > last:
        typer.echo(f"only the last {last:,} events are shown: raise --last for more", err=True)
        frame = frame[1:]
    if not as_json:
        frame = frame.drop(columns=["sequence", "event_id", "details"])
        frame = frame.rename(columns={"event_timestamp": "time (UTC)", "event_type": "event"})
    _show(frame, as_json)


def runs(
    model_name: OneModel = None,
    last: Annotated[int, typer.Option(help="Print at most so many of the latest.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """Show the latest executions of prediction runs in this environment, and what became of them.

    [bold]Example:[/bold] mlsys runs titanic-survival
    """
    from mlsys.registry import list_runs

    frame = list_runs(model_name, last=last)
    if not as_json:
        frame = frame[["started_timestamp", "state", "model_name", "model_version", "as_of", "scored_rows",
                       "rejected_rows", "seconds", "attempt", "run_id", "reason"]]  # fmt: skip
        frame = frame.assign(seconds=frame["seconds"].round(1)).rename(columns={"started_timestamp": "started (UTC)"})
    _show(frame, as_json)


def _tell(move: "Move", model_name: str, alias_name: str, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json({"model_name": model_name, "alias": alias_name, **vars(move)}))
        return
    before = f" (before: {move.previous_version})" if move.previous_version else ""
    what = f"points to {move.model_version}" if move.model_version else "points to no version"
    typer.echo(f"{alias_name} of {model_name} {what} since {move.event_timestamp:%Y-%m-%d %H:%M:%S} UTC{before}")


def _show(frame: "pd.DataFrame", as_json: bool) -> None:
    show_rows(frame, Format.JSON if as_json else Format.TABLE, len(frame))
