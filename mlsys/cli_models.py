"""The commands that change what becomes of versions: ``mlsys promote``, ``models retire``, ``reinstate``, ``sync``."""

from typing import TYPE_CHECKING, Annotated

import typer

from mlsys.cli_options import Json, Model, Reason, Version
from mlsys.errors import MlsysError
from mlsys.terminal import facts_table, print_table, to_json

if TYPE_CHECKING:
    from mlsys.models import Promotion
    from mlsys.names import ModelRef

_PROD = "prod"
_RUNS = 5
_WORD = "production"  # as the workflow asks for it


def add_to(app: typer.Typer, models: typer.Typer) -> None:
    """Add this module's commands to the ``mlsys`` command, and to ``mlsys models``."""
    app.command()(promote)
    models.command()(retire)
    models.command()(reinstate)
    models.command()(sync)


def became_of(ref: "ModelRef") -> dict[str, str]:
    """Return what became of a version in this environment, as headings and texts: aliases, promotion, retirement."""
    from mlsys.registry import list_versions

    (row,) = list_versions(ref.name).query("model_version == @ref.version").to_dict("records")
    lines = {"aliases": ", ".join(row["aliases"]) or "none"}
    if isinstance(row["promoted_by"], str):
        lines["promoted"] = (
            f"from {row['promoted_from']} on {row['promoted_timestamp']:%Y-%m-%d} by {row['promoted_by']}"
        )
    elif isinstance(row["promoted_from"], str):
        lines["promoted"] = f"its uploader says from {row['promoted_from']}, but no promotion is on record"
    if row["retired_timestamp"] == row["retired_timestamp"]:  # NaT is not
        lines["retired"] = f"{row['retired_timestamp']:%Y-%m-%d %H:%M:%S} UTC"
    return lines


def latest_runs(ref: "ModelRef") -> str:
    """Return a line for each of the latest runs of a version in this environment, the latest one first."""
    from mlsys.registry import list_runs

    runs = list_runs(ref.name, ref.version, last=_RUNS)[::-1]
    lines = [
        f"{run.started_timestamp:%Y-%m-%d %H:%M} UTC, as of {run.as_of:%Y-%m-%d %H:%M}: {run.state}"
        + (f", {run.scored_rows:,} rows to {run.output_table}" if run.state == "succeeded" else "")
        for run in runs.itertuples()
    ]
    return "\n".join(lines) or "none"


def _targets(incomplete: str) -> list[str]:
    return [name for name in ("dev", "staging", _PROD) if name.startswith(incomplete)]


def promote(
    model_name: Model,
    model_version: Version,
    to: Annotated[
        str,
        typer.Option(
            help="dev takes from local, staging from dev, prod from staging.", metavar="ENV", autocompletion=_targets
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why, for those who will ask; not needed with --dry-run.")] = "",
    waive_gates: Annotated[bool, typer.Option("--waive-gates", help="Promote although a gate failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print it, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a version to the next environment: verified, golden rows replayed, gates passed. Nothing is retrained.

    For prod, the word production has to be typed, unless --yes is given.

    [bold]Example:[/bold] mlsys promote titanic-survival v3 --to staging --reason 'ready for validation'
    """
    from mlsys.models import check_promotion
    from mlsys.models import promote as promote_version

    if dry_run:
        promotion = check_promotion(model_name, model_version, to)
        _show(promotion, as_json)
        if not waive_gates:
            promotion.check_gates()
        return
    if not reason.strip():
        raise typer.BadParameter("say with --reason why: those who will ask find it in the history")

    def approve(promotion: "Promotion") -> None:
        if not as_json:
            _show(promotion, as_json)
        if promotion.target == _PROD and not yes:
            _ask(promotion)

    promotion = promote_version(model_name, model_version, to, reason=reason, waive_gates=waive_gates, approve=approve)
    _tell(promotion, as_json)


def _ask(promotion: "Promotion") -> None:
    word = typer.prompt(f"Type {_WORD} to promote {promotion.ref} to {_PROD}", default="", show_default=False, err=True)
    if word != _WORD:
        raise MlsysError(f"expected the word {_WORD}, got {word!r}: nothing was promoted")


def retire(model_name: Model, model_version: Version, reason: Reason, as_json: Json = False) -> None:
    """Take a version out of use: nothing new begins with it, but past days can be run again.

    [bold]Example:[/bold] mlsys models retire titanic-survival v2 --reason 'trained on rows that were wrong'
    """
    from mlsys.registry import retire as retire_version

    _say(retire_version(model_name, model_version, reason=reason).ref, "retired", as_json)


def reinstate(model_name: Model, model_version: Version, reason: Reason, as_json: Json = False) -> None:
    """Take back the retirement of a version.

    [bold]Example:[/bold] mlsys models reinstate titanic-survival v2 --reason 'the rows were right after all'
    """
    from mlsys.registry import reinstate as reinstate_version

    _say(reinstate_version(model_name, model_version, reason=reason).ref, "in use again", as_json)


def sync(as_json: Json = False) -> None:
    """Register what is in this environment's bucket and not in the registry: upload events that were lost.

    [bold]Example:[/bold] mlsys models sync
    """
    from mlsys.registry import sync as sync_models

    synced = sync_models()
    if as_json:
        typer.echo(to_json(synced.as_dict()))
        return
    found = {
        "registered now": synced.registered,
        "cannot be registered (run with --verbose)": synced.refused,
        "registered, but gone from the bucket": synced.gone,
    }
    typer.echo(f"{len(synced.unchanged):,} registered before, as they are in the bucket")
    for what, refs in found.items():
        if refs:
            typer.echo(f"{len(refs):,} {what}: {', '.join(refs[:20])}{', …' if len(refs) > 20 else ''}")


def _say(ref: "ModelRef", state: str, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json({"model_name": ref.name, "model_version": ref.version, "state": state}))
    else:
        typer.echo(f"{ref} is {state}")


def _show(promotion: "Promotion", as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(promotion.as_dict()))
    else:
        print_table(
            facts_table(f"{promotion.ref} from {promotion.source} to {promotion.target}", dict(promotion.lines()))
        )


def _tell(promotion: "Promotion", as_json: bool) -> None:
    if as_json:
        typer.echo(to_json(promotion.as_dict()))
        return
    since = f"{promotion.promoted:%Y-%m-%d %H:%M:%S} UTC"
    typer.echo(f"{promotion.ref} is in {promotion.target} since {since}, byte for byte as in {promotion.source}")
