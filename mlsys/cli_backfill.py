"""``mlsys backfill``: the runs of past days, without a scheduler."""

from typing import TYPE_CHECKING, Annotated

import typer

from mlsys.cli_options import AnyEnvironment, IdColumns, Json, Model, OutputTable, Source
from mlsys.terminal import print_rows, to_json

if TYPE_CHECKING:
    from mlsys.predict.backfill import Outcome
    from mlsys.predict.job import PredictionJob


def backfill(
    model_name: Model,
    first: Annotated[str, typer.Option("--from", help="The first moment, such as 2026-01-01, in UTC.")],
    last: Annotated[str, typer.Option("--to", help="The last moment, included.")],
    source: Source,
    output_table: OutputTable,
    id_columns: IdColumns,
    model_version: Annotated[
        str, typer.Option("--version", help="v1, v2, …, latest, an alias; champion-of-day: as it was at each moment.")
    ] = "latest",
    every: Annotated[str, typer.Option(help="The step between moments: 1d, 6h, 1w.")] = "1d",
    parallel: Annotated[int, typer.Option(help="So many runs at once.", min=1, max=64)] = 2,
    again: Annotated[bool, typer.Option("--again", help="Make also what the ledger shows as done.")] = False,
    max_bytes_billed: Annotated[int | None, typer.Option(help="Refuse a run that reads more.")] = None,
    max_rejects: Annotated[float, typer.Option(help="Fraction of rows that may be impossible to score.")] = 0.0,
    any_environment: AnyEnvironment = False,
    as_json: Json = False,
) -> None:
    """Make the runs of past days: each its own slice, those that are done skipped, several at once.

    Stopped or failed, it goes on where it was when it is started again. Ends with the exit code of what failed.

    [bold]Example:[/bold] mlsys backfill titanic-survival --from 2026-01-01 --to 2026-01-10
    --source shoufianesys.titanic.passengers --output shoufianesys.titanic.predictions --id passenger_id
    """
    from mlsys.names import TableId
    from mlsys.predict.backfill import backfill as fill
    from mlsys.predict.backfill import exit_code, moments
    from mlsys.predict.job import PredictionJob, parse_as_of
    from mlsys.progress import rows_bar

    when = moments(parse_as_of(first), parse_as_of(last), every)
    job = PredictionJob(
        model_name=model_name,
        model_version=model_version,
        source=source,
        output_table=TableId.parse(output_table),
        id_columns=tuple(name.strip() for name in id_columns.split(",") if name.strip()),
        as_of=when[-1],
        max_bytes_billed=max_bytes_billed,
        max_rejects=max_rejects,
        check_environment=not any_environment,
    )
    try:
        with rows_bar(f"runs of {model_name}", None, unit=" runs") as start:
            outcomes = fill(job, when, parallel=parallel, again=again, advance=start(len(when)))
    except KeyboardInterrupt as stopped:
        if stopped.args:
            _show(job, stopped.args[0], as_json)
        raise
    _show(job, outcomes, as_json)
    if code := exit_code(outcomes):
        raise typer.Exit(code)


def _show(job: "PredictionJob", outcomes: "list[Outcome]", as_json: bool) -> None:
    from collections import Counter

    if as_json:
        typer.echo(to_json([vars(outcome) for outcome in outcomes]))
        return
    import pandas as pd

    columns = ["as_of", "state", "model_version", "rows", "rejected", "seconds", "reason"]
    frame = pd.DataFrame([vars(outcome) for outcome in outcomes])[columns]
    frame["seconds"] = frame["seconds"].astype(float).round(1)
    print_rows(frame.astype({"rows": "Int64", "rejected": "Int64"}))
    states = ", ".join(f"{count} {state}" for state, count in Counter(o.state for o in outcomes).items())
    typer.echo(f"{len(outcomes)} runs of {job.model_name} into {job.output_table}: {states}")


def add_to(app: typer.Typer) -> None:
    """Add this module's command to the ``mlsys`` command."""
    app.command()(backfill)
