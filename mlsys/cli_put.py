"""``mlsys put``: a file into a table."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def put(
    file: Annotated[Path, typer.Argument(help="A .csv (with a line of names) or .parquet file.", dir_okay=False)],
    table_id: Annotated[str, typer.Argument(metavar="TABLE", help="Full path of the table: project.dataset.table.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the rows of a table that is there.")] = False,
    create_dataset: Annotated[
        bool, typer.Option("--create-dataset", help="Create the table's dataset when it is not there.")
    ] = False,
    null: Annotated[list[str] | None, typer.Option(help="Text of a CSV file that means NULL; default: empty.")] = None,
) -> None:
    """Put a file into a table. A table that holds rows is refused, unless --replace says otherwise.

    [bold]Example:[/bold] mlsys put houses.csv shoufianesys.mine.houses --create-dataset
    """
    from mlsys.bq import bq_put_file

    disposition: Literal["WRITE_TRUNCATE", "WRITE_EMPTY"] = "WRITE_TRUNCATE" if replace else "WRITE_EMPTY"
    rows = bq_put_file(file, table_id, disposition, null_values=null or [""], create_dataset=create_dataset)
    typer.echo(f"{rows:,} rows in {table_id}")
