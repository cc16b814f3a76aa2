"""Arguments and options that several commands share, and how a shell completes them."""

from typing import Annotated

import typer


def model_names(incomplete: str) -> list[str]:
    """Complete a model's name from the registry; without one there is nothing to offer, and no error in a prompt."""
    from mlsys.registry import list_versions

    try:
        return [name for name in list_versions()["model_name"].unique() if name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - whatever it is, a shell that completes has no place to show it
        return []


def alias_names(context: typer.Context, incomplete: str) -> list[str]:
    """Complete an alias of the model that was named before it."""
    return [name for name in sorted({"champion", "challenger", *_aliases(context)}) if name.startswith(incomplete)]


def complete_versions(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a version of the model that was named before it, the latest first, or an alias of it."""
    from mlsys.registry import list_versions

    try:
        versions = list(list_versions(_model_of(context))["model_version"])[::-1]
    except Exception:  # noqa: BLE001 - as above
        return []
    return [name for name in [*versions, *_aliases(context)] if name.startswith(incomplete)]


def _aliases(context: typer.Context) -> list[str]:
    from mlsys.registry import aliases_of

    try:
        return list(aliases_of(_model_of(context)))
    except Exception:  # noqa: BLE001 - as above
        return []


def _model_of(context: typer.Context) -> str:
    # A line that ends in an option without its value is not parsed: the model is still among its arguments.
    return context.params.get("model_name") or next(iter(context.args), "")


Model = Annotated[str, typer.Argument(help="Name of the model.", autocompletion=model_names)]
OneModel = Annotated[str | None, typer.Argument(help="Only this model.", autocompletion=model_names)]
Version = Annotated[str, typer.Argument(help="v1, v2, …, latest or an alias.", autocompletion=complete_versions)]
AliasName = Annotated[str, typer.Argument(metavar="ALIAS", help="champion, challenger, …", autocompletion=alias_names)]
Reason = Annotated[str, typer.Option(help="Why, for those who will ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Source = Annotated[str, typer.Option(envvar="SOURCE", help="Full table path, or a query; it may use @as_of.")]
OutputTable = Annotated[str, typer.Option("--output", envvar="OUTPUT_TABLE", help="Full path of the output table.")]
IdColumns = Annotated[str, typer.Option("--id", envvar="ID_COLUMNS", help="Columns that identify a row, by commas.")]
AnyEnvironment = Annotated[
    bool, typer.Option("--any-environment", help="Accept other packages than those that trained the model.")
]
