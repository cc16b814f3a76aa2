"""``mlsys dags``: check the DAGs, and look at them in Airflow's own page."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlsys.cli_options import Json
from mlsys.errors import SchemaError
from mlsys.terminal import print_rows, to_json

if TYPE_CHECKING:
    from mlsys.airflow.check import Finding

dags = typer.Typer(
    help="Check the DAGs, or run them in an Airflow on the offline twin.\n\n[bold]Example:[/bold] mlsys dags check",
    no_args_is_help=True,
)
_Folder = Annotated[Path, typer.Option(help="The folder with the DAGs; default: dags of this project.")]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the ``mlsys`` command."""
    app.add_typer(dags, name="dags")


@dags.command()
def check(
    folder: _Folder = Path("dags"),
    env: Annotated[list[str] | None, typer.Option(help="Only as this environment sees them; can be repeated.")] = None,
    python: Annotated[str, typer.Option(help="The Python of another Airflow.")] = sys.executable,
    as_json: Json = False,
) -> None:
    """Parse the DAGs as Airflow does in each environment. Ends with 5 when one of them should not be deployed.

    Found are import errors, wrong ids, schedules and jobs, heavy imports, slow parses, and work while parsing:
    connections, programs, databases.

    [bold]Example:[/bold] mlsys dags check
    """
    from mlsys.airflow.check import check_dags, every_environment

    findings = check_dags(_found(folder), tuple(env or every_environment()), python=python)
    if as_json:
        typer.echo(to_json([vars(finding) for finding in findings]))
    else:
        _show(findings)
    if any(finding.faults for finding in findings):
        raise typer.Exit(SchemaError.exit_code)


@dags.command()
def airflow(
    folder: _Folder = Path("dags"),
    port: Annotated[int, typer.Option(help="Port of Airflow's page.", min=1, max=65535)] = 8080,
) -> None:
    """Run Airflow on the offline twin until Ctrl-C: its page is at http://localhost:8080, for everybody an admin.

    [bold]Example:[/bold] mlsys demo && mlsys dags airflow
    """
    from mlsys.airflow.twin import standalone
    from mlsys.settings import get_settings

    raise typer.Exit(standalone(get_settings().data_dir / "airflow", _found(folder), port))


def _found(folder: Path) -> Path:
    """Return a folder as it is named, or as the project has it."""
    from mlsys.settings import project_dir

    return folder.absolute() if folder.is_dir() else project_dir() / folder


def _show(findings: "list[Finding]") -> None:
    import pandas as pd

    columns = ["environment", "file", "DAG", "schedule", "first parse", "parse", "empty file", "ok, or what is wrong"]
    rows = [
        (f.env, f.file, ", ".join(f.dags), ", ".join(f.schedules), f"{f.first_seconds:.1f} s",
         f"{1000 * f.seconds:.0f} ms", f"{1000 * f.empty_seconds:.0f} ms", "\n".join(f.faults) or "ok")
        for f in findings
    ]  # fmt: skip
    print_rows(pd.DataFrame(rows, columns=columns))
