"""Draw the card of a registered version: one HTML file that needs nothing else, from what was stored with it.

The card is stored beside the version, but is no part of it: aliases and runs change, so it can be drawn again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.card import content
from mlsys.errors import MissingPackageError, NotFoundError
from mlsys.gcs import gcs_put, gcs_stat
from mlsys.manifest import Manifest
from mlsys.models.store import load_evaluation, registered_manifest
from mlsys.names import CARD_FILE, LATEST, ModelRef
from mlsys.registry.lookup import Registration, aliases_of, find_version
from mlsys.registry.runs import list_runs
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    from mlsys.vis import Evaluation

_RUNS = 10


@dataclass(frozen=True)
class Card:
    """The card of one version. In a notebook it shows itself.

    Examples
    --------
    >>> model_card("titanic-survival", "v3").save("titanic-survival-v3.html")  # doctest: +SKIP
    """

    ref: ModelRef
    html: str

    def save(self, path: str | Path) -> Path:
        """Write the card to a file and return its path."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path

    def store(self, *, settings: Settings | None = None) -> str:
        """Put the card beside the version, in place of an older one; return its URI."""
        settings = settings or get_settings()
        stored = gcs_put(
            self.html.encode(),
            settings.model_bucket(),
            self.ref.blob_path(CARD_FILE),
            content_type="text/html; charset=utf-8",
            client=clients.storage_client(settings),
        )
        return stored.uri

    def _repr_html_(self) -> str:
        # A frame of its own: neither page's style reaches the other, and nothing in it can run.
        return (
            f'<iframe sandbox srcdoc="{escape(self.html)}" title="Card of {escape(str(self.ref))}"'
            ' style="width: 100%; height: 40em; border: 1px solid #8888"></iframe>'
        )


def model_card(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Card:
    """Draw the card of a registered version.

    Parameters
    ----------
    model_version
        ``v1``, ``v2`` …, ``latest`` or an alias.

    Raises
    ------
    MissingPackageError
        There is no matplotlib or Jinja here, as in the prediction job's image.
    NotFoundError, VerificationError
        As `mlsys.models.load_manifest`: what the registry does not vouch for gets no card.

    Examples
    --------
    >>> model_card("titanic-survival", "champion").store()  # doctest: +SKIP
    'gs://ml-models-dev/titanic-survival/v3/card.html'
    """
    template = _template()
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    manifest = registered_manifest(registration, settings, clients.storage_client(settings))
    stored = load_evaluation(model_name, manifest.model_version, settings=settings)
    evaluation = None if stored is None else _evaluation(stored)
    return Card(manifest.ref, template.render(_facts(registration, manifest, evaluation, settings)))


def stored_card(ref: ModelRef, *, settings: Settings | None = None) -> str | None:
    """Return the URI of the card that is stored beside a version; None when there is none."""
    settings = settings or get_settings()
    try:
        found = gcs_stat(settings.model_bucket(), ref.blob_path(CARD_FILE), client=clients.storage_client(settings))
    except NotFoundError:
        return None
    return found.uri


def _template() -> Any:
    try:
        import jinja2

        import_module("matplotlib")  # for the plots: better said now than half-way
    except ImportError as exc:
        raise MissingPackageError(
            f"a model card needs matplotlib and jinja2, got {exc}: install the group vis (uv sync --group vis)"
        ) from exc
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {f.__name__: f for f in (content.measured, content.moment, content.number, content.size)}
    return environment.from_string(resources.files("mlsys.card").joinpath("card.html.jinja").read_text("utf-8"))


def _evaluation(stored: str) -> "Evaluation":
    from mlsys.vis import Evaluation

    return Evaluation.from_json(stored)


def _facts(
    registration: Registration, manifest: Manifest, evaluation: "Evaluation | None", settings: Settings
) -> dict[str, Any]:
    aliases = aliases_of(manifest.model_name, settings=settings)
    return {
        "manifest": manifest,
        "registration": registration,
        "environment": str(settings.env),
        "aliases": [name for name, version in aliases.items() if version == manifest.model_version],
        "metrics": content.metrics(manifest, evaluation),
        "evaluation": evaluation,
        "plots": _plots(evaluation),
        "limits": content.limits(manifest),
        "features": content.features(manifest),
        "runs": _runs(manifest, settings),
        "drawn": datetime.now(UTC),
    }


def _plots(evaluation: "Evaluation | None") -> Sequence[Any]:
    if evaluation is None:
        return ()
    from mlsys.card.drawing import drawings

    return drawings(evaluation)


def _runs(manifest: Manifest, settings: Settings) -> list[dict[str, Any]]:
    runs = list_runs(manifest.model_name, settings=settings)
    runs = runs[runs["model_version"] == manifest.model_version].tail(_RUNS)
    return [{k: content.plain(v) for k, v in row.items()} for row in runs[::-1].to_dict("records")]
