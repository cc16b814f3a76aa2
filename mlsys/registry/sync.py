"""Rebuild the registry from the bucket: an event that was lost for good is no lost version.

Eventarc gives up on an event after a day. What it would have said is still in the bucket: `sync` goes through every
generation of every manifest that the bucket keeps, and registers what is missing as the event would have.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.names import MANIFEST_FILE, ModelRef
from mlsys.registry.lookup import select
from mlsys.registry.register import UploadEvent, register
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)

_AT_ONCE = 4  # BigQuery runs two MERGE statements of a table at a time and lets twenty wait


@dataclass(frozen=True)
class Synced:
    """What `sync` found: versions by what became of them.

    ``unchanged`` were registered as the bucket has them, ``registered`` are new or have their first manifest now,
    ``refused`` have no manifest that can be registered (the log says why), and of ``gone`` the bucket no longer keeps
    the registered one: their rows stay, as they tell what was.
    """

    unchanged: tuple[str, ...]
    registered: tuple[str, ...]
    refused: tuple[str, ...]
    gone: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can say it."""
        return asdict(self)


def sync(*, progress: bool | None = None, settings: Settings | None = None) -> Synced:
    """Make ``ml_registry.models`` what all upload events of this environment's bucket, together, would have made it.

    Parameters
    ----------
    progress
        Show a bar. By default to a person, when it takes more than a second.

    Examples
    --------
    >>> sync().registered  # doctest: +SKIP
    ('titanic-survival/v3',)
    """
    from mlsys.progress import rows_bar

    settings = settings or get_settings()
    rows = _registered(settings)
    found = dict(_manifests(settings, clients.storage_client(settings)))
    clients.bigquery_client(settings)  # made once, before the threads ask for it
    outcomes: dict[str, list[str]] = {"unchanged": [], "registered": [], "refused": [], "gone": []}
    with ThreadPoolExecutor(_AT_ONCE) as pool, rows_bar("versions", progress) as start:
        advance = start(len(found))
        done = pool.map(lambda ref: _register(found[ref], rows.get(ref), settings), found)
        for ref, outcome in zip(found, done, strict=True):
            outcomes[outcome].append(str(ref))
            advance(1)
    outcomes["gone"] += sorted(map(str, rows.keys() - found.keys()))
    return Synced(**{outcome: tuple(refs) for outcome, refs in outcomes.items()})


def _registered(settings: Settings) -> dict[ModelRef, int]:
    columns = "model_name, model_version, manifest_generation"
    frame = select(columns, "models", "", settings, order="model_name, model_version")
    return {ModelRef(name, version): int(generation) for name, version, generation in frame.itertuples(index=False)}


def _manifests(settings: Settings, client: "StorageClient") -> Iterator[tuple[ModelRef, list[UploadEvent]]]:
    """Yield each version with the events of its manifest, the first one first, of overwritten and deleted ones too."""
    from mlsys.gcs.calls import retry, timeout

    blobs = client.list_blobs(
        settings.model_bucket(),
        match_glob=f"*/*/{MANIFEST_FILE}",
        versions=True,
        fields="items(name,generation),nextPageToken",
        retry=retry(),
        timeout=timeout(),
    )
    for name, kept in groupby(blobs, key=lambda blob: blob.name):
        generations = sorted(blob.generation for blob in kept)
        if found := ModelRef.from_blob_path(name):
            yield found[0], [UploadEvent(settings.model_bucket(), name, generation) for generation in generations]


def _register(events: list[UploadEvent], registered: int | None, settings: Settings) -> str:
    """Register the first manifest that can be, unless it is the one in the table."""
    for event in events:
        if event.generation == registered:
            return "unchanged"
        if registered is not None and event.generation > registered:
            return "gone"  # overwritten since, and no longer kept: a later one does not take its place
        if register(event, settings=settings):
            return "registered"
    return "refused" if registered is None else "unchanged"
