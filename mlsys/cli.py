"""The ``mlsys`` command. Each command turns its options into one library call, and an error into one line.

Imports stand inside the commands: ``mlsys --help`` must not wait for pandas.
"""

import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mlsys import cli_backfill, cli_card, cli_dags, cli_models, cli_put, cli_registry, logs
from mlsys.cli_options import (
    AnyEnvironment,
    IdColumns,
    Json,
    Model,
    OneModel,
    OutputTable,
    Source,
    Version,
    model_names,
)
from mlsys.errors import AccessError, InterruptedRunError, MlsysError, VerificationError
from mlsys.terminal import Format, facts_table, print_rows, print_table, show_rows, to_json

if TYPE_CHECKING:
    from mlsys.models import Verification
    from mlsys.predict import PredictionJob, RunRecord

logger = logging.getLogger(__name__)

_CTRL_C = 130  # what Typer ends with then

app = typer.Typer(
    help="Take a model from a notebook to scheduled, audited predictions in BigQuery.\n\n"
    "[bold]Example:[/bold] mlsys demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
models = typer.Typer(
    help="Look at the models in the registry.\n\n[bold]Example:[/bold] mlsys models list", no_args_is_help=True
)
app.add_typer(models, name="models")
cli_registry.add_to(app)
cli_models.add_to(app, models)
app.command()(cli_card.card)
app.command()(cli_put.put)
cli_backfill.add_to(app)
cli_dags.add_to(app)


@app.callback()
def _options(
    *, verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log each step to stderr.")] = False
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logs.configure("text", level)


@app.command()
def demo() -> None:
    """Run the whole loop on the Titanic's passengers.

    Creates the source table, trains, saves, waits for the registration, predicts and queries the result. Each run adds
    a version.

    [bold]Example:[/bold] mlsys demo
    """
    from mlsys.demo.show import show

    show()


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port for REST; 0 takes a free one.", min=0, max=65535)] = 0,
    grpc_port: Annotated[int, typer.Option(help="Port for the Read API; 0 takes a free one.", min=0, max=65535)] = 0,
) -> None:
    """Serve the offline twin in the foreground, for other tools, until Ctrl-C.

    [bold]Example:[/bold] mlsys up --port 9050
    """
    from mlsys.local.foreground import up as serve
    from mlsys.settings import get_settings

    settings = get_settings()
    serve(settings.data_dir, project=settings.gcp_project_id, buckets=settings.model_buckets, port=port,
          grpc_port=grpc_port, echo=typer.echo)  # fmt: skip


@app.command()
def predict(
    model_name: Annotated[
        str, typer.Option("--model", envvar="MODEL_NAME", help="Name of the model.", autocompletion=model_names)
    ],
    source: Source,
    output_table: OutputTable,
    id_columns: IdColumns,
    model_version: Annotated[
        str, typer.Option("--version", envvar="MODEL_VERSION", help="v1, v2, …, latest or an alias.")
    ] = "latest",
    as_of: Annotated[
        str, typer.Option(envvar="AS_OF", help="Moment that the run is for, ISO 8601; default: today 00:00 UTC.")
    ] = "",
    max_bytes_billed: Annotated[
        int | None, typer.Option(envvar="MAX_BYTES_BILLED", help="Refuse a query that reads more.")
    ] = None,
    max_rejects: Annotated[
        float, typer.Option(envvar="MAX_REJECTS", help="Fraction of rows that may be impossible to score.")
    ] = 0.0,
    part_rows: Annotated[
        int, typer.Option(envvar="PART_ROWS", help="Rows loaded in one job: a restart repeats no more.")
    ] = 1_048_576,
    any_environment: AnyEnvironment = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print it, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON.")] = False,
) -> None:
    """Score the rows of a table or query and publish the predictions: all of them, or none.

    Each option can come from the environment variable beside it, as the DAG passes it.

    [bold]Example:[/bold] mlsys predict --model titanic-survival --source shoufianesys.titanic.passengers
    --output shoufianesys.titanic.predictions --id passenger_id
    """
    from mlsys.names import TableId
    from mlsys.predict.job import PredictionJob, parse_as_of, start_of_day
    from scripts.predict import pull_predict_push

    job = PredictionJob(
        model_name=model_name,
        model_version=model_version,
        source=source,
        output_table=TableId.parse(output_table),
        id_columns=tuple(name.strip() for name in id_columns.split(",") if name.strip()),
        as_of=parse_as_of(as_of) if as_of else start_of_day(datetime.now(UTC)),
        max_bytes_billed=max_bytes_billed,
        max_rejects=max_rejects,
        check_environment=not any_environment,
        part_rows=part_rows,
    )
    if dry_run:
        print_table(facts_table("the run can be made", _check(job)))
        return
    record = pull_predict_push(job)
    typer.echo(to_json(vars(record)) if as_json else describe_run(record))


def _check(job: "PredictionJob") -> dict[str, str]:
    from mlsys import clients
    from mlsys.predict import check, look_at_input
    from mlsys.settings import get_settings

    settings = get_settings()
    client = clients.bigquery_client(settings)
    return dict(check(job, look_at_input(job, settings, client), settings, client).lines())


def describe_run(record: "RunRecord") -> str:
    """Return one line about a finished run, or a task's part of one."""
    rejected = f" ({record.rejected:,} rows rejected)" if record.rejected else ""
    if not record.published:
        return (
            f"{record.rows:,} rows scored{rejected} in {record.seconds:.1f} s; the last task publishes them, or a "
            f"later execution has published its own (run {record.run_id})"
        )
    return (
        f"{record.rows:,} predictions{rejected} by {record.model_name} {record.model_version} in {record.output_table},"
        f" as of {record.as_of:%Y-%m-%d %H:%M} UTC, in {record.seconds:.1f} s (run {record.run_id})"
    )


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="GoogleSQL, or a full table path.")],
    output: Annotated[Format, typer.Option("--format", help="How to print the rows.")] = Format.TABLE,
    max_rows: Annotated[int, typer.Option(help="Print at most so many rows.", min=0)] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many bytes it would read.")] = False,
) -> None:
    """Run a query and print its rows.

    [bold]Example:[/bold] mlsys query 'SELECT COUNT(*) AS n FROM `shoufianesys.titanic.predictions`'
    """
    from mlsys.bq import bq_dry_run, bq_get

    if dry_run:
        typer.echo(str(bq_dry_run(sql)))
    else:
        show_rows(bq_get(sql, max_rows=max_rows + 1), output, max_rows)


@models.command("list")
def list_models(
    model_name: OneModel = None,
    last: Annotated[int, typer.Option(help="Print at most so many of the latest.", min=1)] = 100,
    as_json: Json = False,
) -> None:
    """List the versions that the registry has in this environment, and the aliases that point to them.

    [bold]Example:[/bold] mlsys models list titanic-survival
    """
    from mlsys.registry import list_versions

    frame = list_versions(model_name, last=last + 1)
    if len(frame) > last:
        typer.echo(f"only {last:,} versions are shown: raise --last for more", err=True)
        frame = frame.drop(frame["upload_timestamp"].idxmin())
    if not as_json:
        frame = frame[["model_name", "model_version", "aliases", "upload_timestamp", "uploader", "promoted_from",
                       "training_rows", "file_size", "retired_timestamp"]]  # fmt: skip
        rare = [name for name in ("promoted_from", "retired_timestamp") if frame[name].isna().all()]
        frame = (
            frame.drop(columns=rare)
            .assign(aliases=frame["aliases"].map(", ".join))
            .rename(columns={"upload_timestamp": "uploaded (UTC)", "retired_timestamp": "retired (UTC)"})
        )
    show_rows(frame, Format.JSON if as_json else Format.TABLE, len(frame))


@models.command()
def show(
    model_name: Model,
    model_version: Version = "latest",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what is known about a version: what became of it, origin, metrics, signature, files, its latest runs.

    Its files are not loaded.

    [bold]Example:[/bold] mlsys models show titanic-survival v1
    """
    from mlsys.card import stored_card
    from mlsys.cli_models import became_of, latest_runs
    from mlsys.models import load_manifest

    manifest = load_manifest(model_name, model_version)
    if as_json:
        typer.echo(manifest.to_json().decode())
    else:
        card = stored_card(manifest.ref) or f"none: mlsys card {model_name} {manifest.model_version}"
        lines = {**became_of(manifest.ref), "card": card, **manifest.lines(), "runs": latest_runs(manifest.ref)}
        print_table(facts_table(str(manifest.ref), lines))


@models.command()
def verify(
    model_name: OneModel = None,
    model_version: Annotated[
        str | None, typer.Argument(help="Only this version: v1, v2, …, latest or an alias.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check versions against the registry, load them and replay their golden rows. Ends with 7 when one fails.

    [bold]Example:[/bold] mlsys models verify titanic-survival v1
    """
    from mlsys.models import verify_model, verify_models

    if model_name is not None and model_version is not None:
        found = [verify_model(model_name, model_version)]
    else:
        found = list(verify_models(model_name))
    if as_json:
        typer.echo(to_json([verification.as_dict() for verification in found]))
    else:
        _show_verifications(found)
    if not all(verification.ok for verification in found):
        raise typer.Exit(VerificationError.exit_code)


def _show_verifications(found: "list[Verification]") -> None:
    import pandas as pd

    rows = [(str(v.ref), v.failed or "ok", v.difference) for v in found]
    print_rows(pd.DataFrame(rows, columns=["version", "ok, or what failed", "what differs"]))
    golden = [
        (str(v.ref), d.row, d.column, repr(d.expected), repr(d.found)) for v in found for d in v.golden_differences
    ]
    if golden:
        columns = ["version", "golden row", "output", "expected", "found"]
        print_rows(pd.DataFrame(golden, columns=columns))


def main(arguments: list[str] | None = None) -> None:
    """Run the ``mlsys`` command."""
    _run(app, arguments)


def predict_main(arguments: list[str] | None = None) -> None:
    """Run ``mlsys predict`` as a command of its own: what ``scripts/predict.py`` is."""
    from mlsys.predict.task import on_cloud_run

    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich")
    single.command()(predict)
    logs.configure("json" if on_cloud_run() else "text", logging.INFO)
    _run(single, arguments)


def _run(command: typer.Typer, arguments: list[str] | None) -> None:
    try:
        command(arguments)
    except InterruptedRunError as exc:
        _leave(_fail(exc, exc.exit_code))
    except MlsysError as exc:
        sys.exit(_fail(exc, exc.exit_code))
    except KeyboardInterrupt:  # before Typer looks out for it
        _leave(_CTRL_C)
    except SystemExit as exc:
        if exc.code == _CTRL_C:
            _leave(_CTRL_C)
        raise
    except Exception as exc:
        if not type(exc).__module__.startswith(("google.", "requests.")):
            if not logs.are_json():
                raise
            logger.exception("failed of what mlsys does not know")  # with the traceback, in one line
            sys.exit(1)
        # What Google's client says is enough: its traceback helps nobody here.
        sys.exit(_fail(exc, _google_code(exc)))


def _leave(code: int) -> NoReturn:
    """End the process without the interpreter's own tidying up.

    A signal raises its exception in the middle of anything: in gRPC's setting up of a call, for one. That call is then
    watched by nobody, and the destructor of its channel, which runs as the last of all, would wait for it for ever.
    """
    logging.shutdown()
    with suppress(OSError):  # whoever was reading may have left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _google_code(exc: Exception) -> int:
    """Return the exit code for an exception of Google's clients: whether it passes, or is about credentials."""
    from mlsys.bq.calls import is_transient

    if is_transient(exc) or type(exc).__name__ == "RetryError":
        return InterruptedRunError.exit_code
    return AccessError.exit_code if type(exc).__module__ == "google.auth.exceptions" else 1


def _fail(exc: Exception, code: int) -> int:
    message = " ".join(str(exc).split())
    if logs.are_json():
        logger.error("%s", message)
    else:
        typer.secho(f"mlsys: {message}", err=True, fg=typer.colors.RED)
    return code
