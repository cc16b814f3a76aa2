"""``mlsys card``: a page about a version, to share."""

from pathlib import Path
from typing import Annotated

import typer

from mlsys.cli_options import Model, Version


def card(
    model_name: Model,
    model_version: Version = "latest",
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: <model>-<version>.html here.", dir_okay=False)
    ] = None,
    store: Annotated[bool, typer.Option(help="Keep the card beside the version, too.")] = True,
) -> None:
    """Draw a version's model card: one HTML file about what it is for, how good it is, and where it came from.

    [bold]Example:[/bold] mlsys card titanic-survival v3
    """
    from mlsys.card import model_card

    drawn = model_card(model_name, model_version)
    path = drawn.save(output or Path(f"{drawn.ref.name}-{drawn.ref.version}.html"))
    typer.echo(f"{path} ({path.stat().st_size / 1000:,.0f} kB): open it in a browser, or send it to somebody")
    if store:
        typer.echo(f"stored as {drawn.store()}")
