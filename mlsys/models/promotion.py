"""Promotion: a version goes to the next environment as it is, byte for byte, after it was proven here.

Its files are copied inside Cloud Storage, create-only and the manifest last: whatever interrupts a promotion leaves no
half version for others to see, and doing it again goes on. The event that records it is written under a job id of its
own, and so once.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.errors import (
    AccessError,
    AlreadyExistsError,
    ConflictError,
    EnvironmentMismatchError,
    GateError,
    MlsysError,
    SettingsError,
    VerificationError,
)
from mlsys.gcs import StoredObject, gcs_copy, gcs_get_bytes, gcs_stat
from mlsys.gcs.io import uploader
from mlsys.manifest import Manifest
from mlsys.models import environment
from mlsys.models.gates import Verdict, judge, read_gates
from mlsys.models.holdout import measure
from mlsys.models.model import Model
from mlsys.models.store import estimator_in, load_model, registered_manifest, verified_file
from mlsys.names import HOLDOUT_FILE, MANIFEST_FILE, ModelRef
from mlsys.registry.aliases import CHAMPION
from mlsys.registry.events import find_events, record_event
from mlsys.registry.lookup import aliases_of, find_version, registered_columns, registration_of, wait_for_version
from mlsys.settings import Environment, Settings, get_settings

if TYPE_CHECKING:
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)

_STAGES = list(Environment)  # local, dev, staging, prod: each promotes to the next


@dataclass(frozen=True)
class Promotion:
    """A version and the environment that it may go to: what was found when it was checked.

    ``verdicts`` are those of the model's gates. ``promoted`` says when it was promoted before, if it was; then nothing
    else was checked.
    """

    ref: ModelRef
    source: Environment
    target: Environment
    manifest_sha256: str
    manifest: Manifest
    files: tuple[StoredObject, ...] = ()  # as they are in the source's bucket, the manifest last
    verdicts: tuple[Verdict, ...] = ()
    promoted: datetime | None = None

    @property
    def failed(self) -> list[Verdict]:
        """The gates that the version does not pass."""
        return [verdict for verdict in self.verdicts if verdict.passed is False]

    def check_gates(self) -> None:
        """Raise `GateError` if there are `failed` ones."""
        if self.failed:
            raise GateError(f"{self.ref} may not go to {self.target}: {'; '.join(map(str, self.failed))}")

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can say it."""
        return {
            "model_name": self.ref.name,
            "model_version": self.ref.version,
            "from": str(self.source),
            "to": str(self.target),
            "manifest_sha256": self.manifest_sha256,
            "gates": [asdict(verdict) for verdict in self.verdicts],
            "promoted": self.promoted,
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what was found, as pairs of a heading and a text, for a person."""
        manifest = self.manifest
        yield (
            "version",
            f"{self.ref}, {manifest.signature.task}, saved {manifest.created:%Y-%m-%d} by {manifest.creator}",
        )
        yield "from, to", f"{self.source} → {self.target}"
        if self.promoted:
            yield "promoted", f"{self.promoted:%Y-%m-%d %H:%M:%S} UTC; nothing was checked again"
            return
        yield "manifest", f"SHA-256 {self.manifest_sha256}, as registered in {self.source}"
        yield "files", "\n".join(f"{a.file} {a.size:,} bytes, SHA-256 {a.sha256[:12]}…" for a in manifest.artifacts)
        yield "environment", ", ".join([f"Python {manifest.python_version}", *map(" ".join, manifest.packages.items())])
        yield "golden rows", f"{len(next(iter(manifest.golden_rows.outputs.values()), []))} reproduced"
        yield "gates", "\n".join(map(str, self.verdicts)) or "none are set for this model (see mlsys.models.gates)"


def check_promotion(
    model_name: str, model_version: str, to: str | Environment, *, settings: Settings | None = None
) -> Promotion:
    """Check a version for the next environment: dev's for staging, staging's for prod. Nothing is written.

    Its files are verified, its golden rows replayed with the packages of this process, and its gates judged; a gate
    that it fails is in the result.

    Raises
    ------
    NotFoundError
        The environment before ``to`` has no such version.
    ConflictError
        The version is retired, or its own promotion to the environment before ``to`` was not finished.
    AlreadyExistsError
        ``to`` has another version under this number.
    VerificationError, EnvironmentMismatchError
        It is not what was registered, or does not give here what it gave when it was saved.
    """
    here, there = _ends(to, settings or get_settings())
    found = find_version(model_name, model_version, settings=here)
    if found.retired:
        raise ConflictError(f"{found.ref} is retired in {here.env}: `mlsys models reinstate` takes it back")
    _check_recorded(found.ref, here)
    client = clients.storage_client(here)
    manifest = registered_manifest(found, here, client)
    promotion = Promotion(found.ref, here.env, there.env, found.manifest_sha256, manifest)
    if done := _promoted(promotion, there):
        return replace(promotion, promoted=done)
    files = _stats(promotion, here, client)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = tuple(_prove(manifest, Path(folder), here, there, client))
    return replace(promotion, files=files, verdicts=verdicts)


def promote(
    model_name: str,
    model_version: str,
    to: str | Environment,
    *,
    reason: str,
    actor: str | None = None,
    waive_gates: bool = False,
    approve: Callable[[Promotion], None] | None = None,
    settings: Settings | None = None,
) -> Promotion:
    """Copy a version to the next environment, once it is proven, and record who did it and why.

    Promoted before, it is not promoted again. Interrupted, it goes on when it is called again.

    Parameters
    ----------
    to
        ``staging`` takes from dev, ``prod`` from staging; on the offline twin ``dev`` takes from local.
    actor
        Who does it; by default the owner of this process's credentials.
    waive_gates
        Promote although a gate failed. The event says so.
    approve
        Called with what was found, before anything is written; it may raise.

    Returns
    -------
    Promotion
        With ``promoted``, the time of the event.

    Raises
    ------
    GateError
        It does not pass its model's gates. Nothing was copied; an event of type refused says what and whom, as for the
        verification errors of `check_promotion`.
    MlsysError
        The others of `check_promotion`.

    Examples
    --------
    >>> promote("titanic-survival", "v3", "staging", reason="ready for validation")  # doctest: +SKIP
    """
    settings = settings or get_settings()
    here, there = _ends(to, settings)
    ref = find_version(model_name, model_version, settings=here).ref
    try:
        promotion = check_promotion(ref.name, ref.version, to, settings=settings)
        if not waive_gates:
            promotion.check_gates()
    except (AlreadyExistsError, EnvironmentMismatchError, GateError, VerificationError) as exc:
        _record_refusal(ref, exc, actor, there)
        raise
    if promotion.promoted:
        return promotion
    if approve:
        approve(promotion)
    actor = actor or uploader(clients.storage_client(there))
    _copy(promotion, actor, there)
    wait_for_version(promotion.ref, manifest_sha256=promotion.manifest_sha256, settings=there)
    _record(promotion, reason, actor, there)
    if (done := _promoted(promotion, there)) is None:
        raise ConflictError(
            f"the promotion of {promotion.ref} to {there.env} was recorded, but ml_registry.events lacks its row: was"
            " the table edited or restored?"
        )
    return replace(promotion, promoted=done)


def _ends(to: str | Environment, settings: Settings) -> tuple[Settings, Settings]:
    """Return the settings of the environment before ``to``, and of ``to``."""
    if to not in _STAGES[1:]:
        raise SettingsError(f"a version is promoted to dev, staging or prod, got {str(to)!r}")
    target = Environment(to)
    here, there = settings.at(_STAGES[_STAGES.index(target) - 1]), settings.at(target)
    if here.on_twin != there.on_twin:
        raise SettingsError(
            f"a version is promoted to dev from local, which is the offline twin, got MLSYS_ENV {settings.env}: save it"
            " in dev"
        )
    return here, there


def _check_recorded(ref: ModelRef, here: Settings) -> None:
    """Refuse a version that was copied from elsewhere without a record: nobody said that it was proven."""
    came_from = registered_columns(ref, ["promoted_from"], settings=here)["promoted_from"]
    if isinstance(came_from, str) and find_events("promoted", ref, settings=here).empty:
        raise ConflictError(
            f"{ref} came to {here.env} from {came_from}, but no promotion is on record: finish it by `mlsys promote"
            f" {ref.name} {ref.version} --to {here.env}`"
        )


def _promoted(promotion: Promotion, there: Settings) -> datetime | None:
    """Return when the version was promoted; refuse another one in its place."""
    found = registration_of(promotion.ref, settings=there)
    if found is None:
        return None
    if found.manifest_sha256 != promotion.manifest_sha256:
        raise AlreadyExistsError(
            f"{there.env} has another {promotion.ref} (its manifest has SHA-256 {found.manifest_sha256[:12]}…, that in"
            f" {promotion.source} {promotion.manifest_sha256[:12]}…): nothing was copied; save it as a new version"
        )
    events = find_events("promoted", promotion.ref, settings=there)
    return None if events.empty else events["event_timestamp"].iloc[0].to_pydatetime()


def _stats(promotion: Promotion, here: Settings, client: "StorageClient") -> tuple[StoredObject, ...]:
    """Return the files as they are in the source's bucket, the manifest last: what is copied is these generations."""
    bucket, ref = here.model_bucket(), promotion.ref
    names = [*(artifact.file for artifact in promotion.manifest.artifacts), MANIFEST_FILE]
    files = tuple(gcs_stat(bucket, ref.blob_path(name), client=client) for name in names)
    # The manifest could have been replaced since it was read.
    path, generation = ref.blob_path(MANIFEST_FILE), files[-1].generation
    gcs_get_bytes(bucket, path, generation=generation, sha256=promotion.manifest_sha256, client=client)
    return files


def _prove(
    manifest: Manifest, folder: Path, here: Settings, there: Settings, client: "StorageClient"
) -> Iterator[Verdict]:
    """Load the version as a run would, and judge its gates."""
    environment.check(manifest)
    for artifact in manifest.artifacts:
        verified_file(artifact, manifest.ref, here.model_bucket(), folder, client)
    model = Model(manifest, estimator_in(folder, manifest, here))
    model.check_golden_rows()
    holdout = folder / HOLDOUT_FILE
    gates = read_gates(manifest.model_name)
    measured = measure(model, holdout) if holdout.exists() else {}
    try:
        champion = _champion_on(holdout, manifest.ref, there) if gates.beats_champion else ""
    except AccessError:
        raise  # about the caller, not about the version
    except (MlsysError, TypeError, ValueError) as exc:
        gate = f"better {gates.beats_champion} than the champion"
        yield Verdict(gate, False, f"it cannot be compared: {' '.join(str(exc).split())}")
        gates, champion = gates.model_copy(update={"beats_champion": None}), ""
    yield from judge(gates, manifest.metrics, measured, champion)


def _champion_on(holdout: Path, ref: ModelRef, there: Settings) -> dict[str, float] | str:
    """Return what the champion of the target scores on held-out rows, or why there is nothing to compare with."""
    version = aliases_of(ref.name, settings=there).get(CHAMPION)
    if version is None:
        return f"{there.env} has no champion yet"
    if not holdout.exists():
        return f"{ref} was saved without held-out rows (save_model(..., holdout=(X_test, y_test)))"
    if version == ref.version:  # promoted before, by somebody who was interrupted
        return "it is the champion itself"
    return measure(load_model(ref.name, version, settings=there), holdout)


def _copy(promotion: Promotion, actor: str, there: Settings) -> None:
    """Copy the files, each of which may be there already, and read the copies back: all before the manifest."""
    client, ref, bucket = clients.storage_client(there), promotion.ref, there.model_bucket()
    tags = {"uploader": actor, "promoted_from": str(promotion.source)}
    *files, manifest = promotion.files
    for file, artifact in zip(files, promotion.manifest.artifacts, strict=True):
        gcs_copy(file, bucket, ref.blob_path(artifact.file), metadata=tags, client=client)
        with tempfile.TemporaryDirectory() as folder:
            verified_file(artifact, ref, bucket, Path(folder), client)
    gcs_copy(manifest, bucket, ref.blob_path(MANIFEST_FILE), metadata=tags, client=client)


def _record(promotion: Promotion, reason: str, actor: str, there: Settings) -> None:
    ref = promotion.ref
    details = {
        "from": str(promotion.source),
        "manifest_sha256": promotion.manifest_sha256,
        "gates": [asdict(verdict) for verdict in promotion.verdicts],
        "waived": bool(promotion.failed),
    }
    job_id = f"mlsys_promoted_{there.env}_{ref.name}_{ref.version}_{promotion.manifest_sha256[:16]}"
    record_event(
        "promoted", ref.name, ref.version, reason=reason, actor=actor, details=details, job_id=job_id, settings=there
    )


def _record_refusal(ref: ModelRef, why: MlsysError, actor: str | None, there: Settings) -> None:
    details = {"error": type(why).__name__}
    record_event("refused", ref.name, ref.version, reason=str(why), actor=actor, details=details, settings=there)
