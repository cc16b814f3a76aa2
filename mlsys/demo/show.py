"""``mlsys demo``: the Titanic example step by step, told to a person."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mlsys.cli import describe_run
from mlsys.demo import titanic
from mlsys.errors import SettingsError
from mlsys.names import registry_table
from mlsys.registry import list_versions
from mlsys.settings import Environment, get_settings
from mlsys.terminal import print_rows
from scripts.predict import pull_predict_push

_console = Console()
_REGISTRY_COLUMNS = ["model_version", "upload_timestamp", "file_size", "uploader", "training_rows"]


def show() -> None:
    """Run the example in this process's environment and print what happens.

    Raises
    ------
    SettingsError
        The environment is one that others depend on: the example would become its latest model.
    """
    settings = get_settings()
    if settings.env in (Environment.STAGING, Environment.PROD):
        raise SettingsError(f"the demo saves a model: run it with MLSYS_ENV local or dev, got {settings.env}")
    _console.print(
        f"[bold]mlsys demo[/bold] in environment [bold]{settings.env}[/bold]: from a table to audited predictions"
    )
    with _step("Source table") as done:
        rows = titanic.load_passengers()
        done(f"{rows:,} passengers in {titanic.passengers_table()}")
    with _step("Training data") as done:
        from mlsys.bq import bq_get

        frame, tested = bq_get(titanic.training_query()), bq_get(titanic.held_out_query())
        done(f"{len(frame):,} passengers by bq_get; {len(tested):,} others are held out")
    with _step("Train, save, register") as done:
        model = titanic.train_and_save(frame, tested)
        accuracy = model.manifest.metrics["cv_accuracy"]
        done(f"{model.ref.uri(settings.model_bucket())}, cross-validated accuracy {accuracy:.3f}")
    with _step("Predict") as done:
        record = pull_predict_push(titanic.prediction_job(model.ref.version))
        done(describe_run(record))
    with _step("Measure") as done:
        truth = titanic.measure(record.run_id).iloc[0]
        passengers = int(truth["passengers"])
        done(f"accuracy {truth['accuracy']:.3f} on {passengers} held-out passengers, computed in BigQuery")
    sample = titanic.sample(record.run_id).round({"probability": 3})
    _console.print("\nA few predictions")
    print_rows(sample)
    versions = list_versions(titanic.MODEL_NAME)[_REGISTRY_COLUMNS]
    versions["upload_timestamp"] = versions["upload_timestamp"].dt.floor("s")
    _console.print(f"The registry, {registry_table(settings.gcp_project_id, 'models')}")
    print_rows(versions.tail(5))
    _console.print(_next_steps(model.ref.version), highlight=False, soft_wrap=True)


@contextmanager
def _step(title: str) -> Iterator:
    start, outcome = time.monotonic(), list[str]()
    with _console.status(f"{title} …"):
        yield outcome.append
    seconds = f"[dim]({time.monotonic() - start:.1f} s)[/dim]"
    _console.print(f"[green]✓[/green] {title}: {outcome[0]} {seconds}", highlight=False, soft_wrap=True)


def _next_steps(version: str) -> str:
    table = titanic.predictions_table()
    return rf"""[bold]What next[/bold]
  uv run mlsys query "SELECT model_version, COUNT(*) AS n FROM \`{table}\` GROUP BY 1"
  uv run mlsys models show {titanic.MODEL_NAME}
  uv run mlsys promote {titanic.MODEL_NAME} {version} --to dev --reason 'first try'
  uv run mlsys demo                          again: the next version, and its predictions beside these
  uv run jupyter lab notebooks               a template to copy, and this example worked through
On Google Cloud: set MLSYS_ENV=dev and GCP_PROJECT_ID, log in, and run the same commands."""  # noqa: S608
