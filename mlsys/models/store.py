"""Save and load model versions in the environment's bucket.

A version is claimed by creating its model file, which only one saver can, and completed by its manifest, written last.
Everything that can fail comes before the claim. The number of a version is never used again, not even after its files
were deleted: the registry remembers it.
Loading trusts the registry alone: the manifest must have the digest that was registered, the files those of the
manifest, and only then is anything unpickled, and of that only what the manifest lists and `mlsys.models.unpickling`
lets any model use.
"""

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mlsys import clients
from mlsys.errors import AlreadyExistsError, NotFoundError, SchemaError, UntrustedError, VerificationError
from mlsys.gcs import gcs_get_bytes, gcs_get_file, gcs_put
from mlsys.gcs.io import uploader
from mlsys.manifest import Artifact, Container, GoldenRows, Manifest, Signature, parse_manifest, sha256
from mlsys.models import environment
from mlsys.models.holdout import measure, write_holdout
from mlsys.models.model import Model, describe, predict, predict_frame, same
from mlsys.models.profile import golden_positions, profile
from mlsys.models.signature import infer_inputs, to_bigquery_table, to_json_columns
from mlsys.names import EVALUATION_FILE, HOLDOUT_FILE, MANIFEST_FILE, MODEL_FILE, SKOPS_FILE, ModelRef, check_model_name
from mlsys.registry.events import record_event
from mlsys.registry.lookup import LATEST, Registration, find_version, list_versions, wait_for_version
from mlsys.settings import Environment, Settings, get_settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)


class Evaluation(Protocol):
    """What was measured of a model, as `mlsys.vis.evaluate` returns it: it stands alone, and this is all we ask."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Name to value."""

    def to_json(self) -> str:
        """Return all of it as a text."""


def save_model(
    estimator: Any,
    model_name: str,
    X: "pd.DataFrame | np.ndarray",  # noqa: N803
    *,
    metrics: Mapping[str, float] | None = None,
    evaluation: Evaluation | None = None,
    training_query: str | None = None,
    description: str = "",
    intended_use: str = "",
    limits: str = "",
    feature_names: Sequence[str] | None = None,
    holdout: "tuple[pd.DataFrame | np.ndarray, Any] | None" = None,
    format: Literal["joblib", "skops"] = "joblib",  # noqa: A002 - what users of skops call it
    wait: bool = True,
    settings: Settings | None = None,
) -> Model:
    """Save a fitted model as the next version of ``model_name``.

    Parameters
    ----------
    estimator
        A fitted classifier or regressor with scikit-learn's ``predict``.
    X
        The features that it was fitted on, one row each. Their names, types, missing values and categories become the
        signature. A NumPy array, for an estimator that wants one, takes its names from ``feature_names``.
    metrics
        Name to value, a finite number, as measured on held-out data; by default those of ``evaluation``.
    evaluation
        What `mlsys.vis.evaluate` returned for held-out data. It is stored with the version, for its model card.
    training_query
        The query or table that the data came from.
    description, intended_use, limits
        What the model says, what it is for, and where it must not be relied on: for those who find it later.
    holdout
        ``(X_test, y_test)``: rows that the model has not seen, with the truth. They are kept beside the version, for
        whoever may read the bucket; a promotion measures this version and the champion on them.
    format
        ``skops`` stores no pickle, but a file that runs nothing when it is read; it knows scikit-learn's models and
        little else.
    wait
        Wait until the upload event has reached the registry, so that the version can be loaded at once.

    Returns
    -------
    Model
        The saved version; ``model.ref.version`` is the new ``v1``, ``v2`` …

    Raises
    ------
    SchemaError
        A column, a metric or the estimator cannot be described, the estimator is not fitted, or it would predict
        otherwise on data from BigQuery than on ``X``. Nothing was saved.
    UntrustedError
        The model needs a class or function that models may not use: one of a notebook, which nobody else could load, or
        of a package that ``MLSYS_MODEL_PACKAGES`` does not name. Nothing was saved.
    VerificationError
        The model does not give the same outputs again when it is loaded, and nothing was saved; or another manifest
        than the one that was just written is registered for the version.
    NotFoundError
        The registry did not take notice within a minute.

    Examples
    --------
    >>> save_model(pipeline, "titanic-survival", X_train, metrics={"accuracy": 0.81})  # doctest: +SKIP
    """
    settings = settings or get_settings()
    check_model_name(model_name)
    frame, container = _as_frame(X, feature_names)
    signature = describe(estimator, infer_inputs(frame), container)
    client, bucket = clients.storage_client(settings), settings.model_bucket()
    with tempfile.TemporaryDirectory() as folder:
        model_file = Path(folder) / _file_of(format)
        _dump(estimator, model_file)
        loaded, needed = _reader(model_file.name).read_back(model_file, settings.mlsys_model_packages)
        extras = _write_holdout(Path(folder), signature, holdout, feature_names)
        extras += _write_evaluation(Path(folder), evaluation)
        if metrics is None and evaluation is not None:
            metrics = evaluation.metrics
        draft = Manifest(
            model_name=model_name,
            model_version="v1",  # until a version is claimed
            created=datetime.now(UTC),
            creator=uploader(client),
            description=description,
            intended_use=intended_use,
            limits=limits,
            git_commit=environment.git_commit(),
            artifacts=tuple(map(_artifact, [model_file, *extras])),
            signature=signature,
            metrics=_metrics(metrics or {}),
            training_query=training_query,
            training_rows=len(frame),
            python_version=environment.python_version(),
            packages=environment.packages(estimator, *(["skops"] if format == "skops" else [])),
            globals=needed,
            golden_rows=_golden_rows(estimator, signature, frame),
            profile=profile(frame),
        )
        draft = parse_manifest(draft.to_json(), draft.ref)  # what a run will read must hold what it will check
        readable = Model(draft, loaded)
        readable.check_golden_rows()  # of the file, not of what it was made from
        if holdout is not None:
            measure(readable, Path(folder) / HOLDOUT_FILE)  # what cannot be scored now could not be compared later
        del loaded, readable
        manifest = _write(
            [model_file, *extras], draft, _next_number(model_name, bucket, client, settings), bucket, client
        )
    logger.info("saved %s as %s", manifest.ref, manifest.ref.uri(bucket))
    if wait:
        wait_for_version(manifest.ref, manifest_sha256=sha256(manifest.to_json()), settings=settings)
    return Model(manifest, estimator)


def load_model(
    model_name: str,
    model_version: str = LATEST,
    *,
    check_environment: bool = True,
    settings: Settings | None = None,
) -> Model:
    """Load a version that the registry vouches for.

    Parameters
    ----------
    model_version
        ``v1``, ``v2`` …, ``latest`` or an alias.
    check_environment
        Refuse a model that was trained with other packages than those that are installed.

    Raises
    ------
    NotFoundError
        The registry has no such version, or its files are gone from the bucket.
    VerificationError
        The manifest is not the one that was registered, or a file not the one in the manifest. Nothing was unpickled.
    UntrustedError
        The file needs code that was not recorded when it was saved, or that no model may use. That code was not run.
    EnvironmentMismatchError
        Python, scikit-learn or a package that the model needs is of another version here. Nothing was unpickled.

    Examples
    --------
    >>> load_model("titanic-survival").predict(batch)  # doctest: +SKIP
    """
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    client = clients.storage_client(settings)
    manifest = registered_manifest(registration, settings, client)
    if check_environment:
        environment.check(manifest)
    with tempfile.TemporaryDirectory() as folder:
        verified_file(manifest.model_file, manifest.ref, registration.bucket_name, Path(folder), client)
        estimator = estimator_in(Path(folder), manifest, settings)
    logger.info("loaded %s from %s", manifest.ref, registration.gcs_uri)
    return Model(manifest, estimator)


def load_unregistered_model(
    model_name: str, model_version: str, *, reason: str, actor: str | None = None, settings: Settings | None = None
) -> Model:
    """Load a version from dev's bucket although the registry does not know it, or knows it otherwise.

    For looking into what went wrong. It is on record: an event of type overridden is written before anything is read.
    Digests and the environment are not checked, but the policy of `mlsys.models.unpickling` is in force.

    Raises
    ------
    UntrustedError
        This is not dev; or the file needs code that no model may use.
    NotFoundError, VerificationError
        The bucket has no such version, or its manifest or model cannot be read.

    Examples
    --------
    >>> load_unregistered_model("titanic-survival", "v3", reason="the function was down")  # doctest: +SKIP
    """
    settings, ref = settings or get_settings(), ModelRef(model_name, model_version)
    if settings.env is not Environment.DEV:
        raise UntrustedError(
            f"versions that are not registered are loaded only in dev, got {settings.env}: register it"
            " (`mlsys models sync`), or save the model again"
        )
    record_event("overridden", model_name, model_version, reason=reason, actor=actor, settings=settings)
    client, bucket = clients.storage_client(settings), settings.model_bucket()
    manifest = parse_manifest(gcs_get_bytes(bucket, ref.blob_path(MANIFEST_FILE), client=client), ref)
    file = manifest.model_file.file
    with tempfile.TemporaryDirectory() as folder:
        path = gcs_get_file(bucket, ref.blob_path(file), Path(folder) / file, client=client)
        estimator, _ = _reader(file).read_back(path, settings.mlsys_model_packages)
    logger.warning("loaded %s from %s, which nobody vouches for", ref, ref.uri(bucket))
    return Model(manifest, estimator)


def load_manifest(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Manifest:
    """Return the manifest of a version as it was registered, without its files; raises as `load_model` does."""
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    return registered_manifest(registration, settings, clients.storage_client(settings))


def load_evaluation(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> str | None:
    """Return the evaluation that was saved with a version, as JSON; None when there was none.

    Raises as `load_model` does: it is the registered one, or refused. `mlsys.vis.Evaluation.from_json` reads it.
    """
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    client = clients.storage_client(settings)
    manifest = registered_manifest(registration, settings, client)
    if not manifest.has(EVALUATION_FILE):
        return None
    with tempfile.TemporaryDirectory() as folder:
        artifact, bucket = manifest.artifact(EVALUATION_FILE), registration.bucket_name
        return verified_file(artifact, manifest.ref, bucket, Path(folder), client).read_text(encoding="utf-8")


def _as_frame(X: Any, feature_names: Sequence[str] | None) -> tuple["pd.DataFrame", Container]:  # noqa: N803
    import pandas as pd

    if len(getattr(X, "shape", ())) != 2 or 0 in X.shape:
        raise SchemaError(f"X must be a DataFrame or an array of rows and columns, got {_shape(X)}")
    if isinstance(X, pd.DataFrame):
        return X, "dataframe"
    names = list(feature_names) if feature_names is not None else [f"x{i}" for i in range(X.shape[1])]
    return pd.DataFrame(X, columns=names), "numpy"


def _shape(X: Any) -> str:  # noqa: N803
    return f"a {type(X).__name__}" + (f" of shape {X.shape}" if hasattr(X, "shape") else "")


def _metrics(given: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _metric(name, value) for name, value in given.items()}


def _metric(name: str, value: Any) -> float:
    with suppress(OverflowError):  # of an integer that no float can hold
        if isinstance(value, Real) and math.isfinite(value):
            return float(value)
    raise SchemaError(f"metric {name!r} must be a finite number, got {value!r}")


def _golden_rows(estimator: Any, signature: Signature, frame: "pd.DataFrame") -> GoldenRows:
    """Return sample rows with the model's outputs, which must be the same from BigQuery as straight from the frame."""
    from sklearn.exceptions import NotFittedError

    rows = frame.iloc[golden_positions(frame)]
    table = to_bigquery_table(rows, signature.inputs)
    try:
        direct = to_json_columns(predict_frame(estimator, signature, rows))
    except NotFittedError as exc:
        raise SchemaError(f"a model must be fitted before it is saved: {exc}") from exc
    outputs = to_json_columns(predict(estimator, signature, table))
    for name, values in outputs.items():
        if not all(map(same, direct[name], values)):
            raise SchemaError(
                f"the model gives another {name} on its training rows when they come as BigQuery types: check dtypes"
            )
    return GoldenRows(inputs=to_json_columns(table), outputs=outputs)


def _write_holdout(
    folder: Path, signature: Signature, holdout: tuple[Any, Any] | None, feature_names: Sequence[str] | None
) -> list[Path]:
    if holdout is None:
        return []
    features, y = holdout
    write_holdout(folder / HOLDOUT_FILE, signature, _as_frame(features, feature_names)[0], y)
    return [folder / HOLDOUT_FILE]


def _write_evaluation(folder: Path, evaluation: Evaluation | None) -> list[Path]:
    if evaluation is None:
        return []
    (folder / EVALUATION_FILE).write_text(evaluation.to_json(), encoding="utf-8")
    return [folder / EVALUATION_FILE]


def _artifact(file: Path) -> Artifact:
    return Artifact(file=file.name, size=file.stat().st_size, sha256=_file_sha256(file))


def _file_of(format_: str) -> str:
    files = {"joblib": MODEL_FILE, "skops": SKOPS_FILE}
    if format_ not in files:
        raise SchemaError(f"format must be 'joblib' or 'skops', got {format_!r}")
    return files[format_]


def _dump(estimator: Any, path: Path) -> None:
    if path.name == SKOPS_FILE:
        from mlsys.models.skops_files import dump

        dump(estimator, path)
        return
    import joblib

    joblib.dump(estimator, path, compress=0)  # uncompressed: scanners and the verifying loader can read it


def _next_number(model_name: str, bucket: str, client: "StorageClient", settings: Settings) -> int:
    # A registered version whose files were deleted keeps its number: the registry would not take another manifest.
    registered = [ModelRef(model_name, v).number for v in list_versions(model_name, settings=settings)["model_version"]]
    return 1 + max(_numbers(model_name, bucket, client) + registered, default=0)


def _write(files: list[Path], draft: Manifest, number: int, bucket: str, client: "StorageClient") -> Manifest:
    """Write a version under the first number, from ``number`` on, that nobody else has; return its manifest."""
    while True:
        ref = ModelRef.from_number(draft.model_name, number)
        manifest = draft.model_copy(update={"model_version": ref.version})
        try:
            for file in files:
                gcs_put(file, bucket, ref.blob_path(file.name), create_only=True, client=client)
            path, kind = ref.blob_path(MANIFEST_FILE), "application/json"
            gcs_put(manifest.to_json(), bucket, path, create_only=True, content_type=kind, client=client)
        except AlreadyExistsError:  # another saver was quicker: the number is theirs
            number += 1
        else:
            return manifest


def _numbers(model_name: str, bucket: str, client: "StorageClient") -> list[int]:
    # Half-written versions count too: their number is taken.
    listing = client.list_blobs(bucket, prefix=f"{model_name}/", delimiter="/")
    for _ in listing:
        pass
    folders = [ModelRef.from_blob_path(prefix + MODEL_FILE) for prefix in listing.prefixes]
    return [found[0].number for found in folders if found]


def registered_manifest(registration: Registration, settings: Settings, client: "StorageClient") -> Manifest:
    """Return the manifest that the registry vouches for, and only that one; raises as `load_manifest` does."""
    ref, bucket = registration.ref, settings.model_bucket()
    if registration.gcs_uri != ref.uri(bucket):
        raise VerificationError(
            f"{ref} is registered in {registration.gcs_uri}, but models of {settings.env} are in {ref.uri(bucket)}: the"
            " registry's row was changed"
        )
    try:
        data = gcs_get_bytes(bucket, ref.blob_path(MANIFEST_FILE), client=client)
    except NotFoundError as exc:
        raise NotFoundError(
            f"{ref} is registered but its manifest is gone from {registration.gcs_uri}: restore its last version"
        ) from exc
    if sha256(data) != registration.manifest_sha256:
        raise VerificationError(
            f"the manifest of {ref} is not the one that was registered (SHA-256 {sha256(data)[:12]}…, registered"
            f" {registration.manifest_sha256[:12]}…): do not use {registration.gcs_uri}"
        )
    return parse_manifest(data, ref)


def verified_file(artifact: Artifact, ref: ModelRef, bucket: str, folder: Path, client: "StorageClient") -> Path:
    """Download a file of a version into ``folder`` and return its path, if it is the one that the manifest lists."""
    path = folder / artifact.file
    try:
        gcs_get_file(bucket, ref.blob_path(artifact.file), path, client=client)
    except NotFoundError as exc:
        raise NotFoundError(f"{artifact.file} of {ref} is gone from {ref.uri(bucket)}") from exc
    size, digest = path.stat().st_size, _file_sha256(path)
    if (size, digest) != (artifact.size, artifact.sha256):
        raise VerificationError(
            f"{artifact.file} of {ref} is not what was saved ({size} bytes, SHA-256 {digest[:12]}…; the manifest says"
            f" {artifact.size} bytes, {artifact.sha256[:12]}…): nothing was loaded"
        )
    return path


def estimator_in(folder: Path, manifest: Manifest, settings: Settings) -> Any:
    """Return the estimator of a verified version, as far as the manifest and the policy let it; see `load_model`."""
    if manifest.format == 1:
        raise UntrustedError(
            f"{manifest.ref} was saved by an mlsys that did not record what its pickle needs: save the model again"
        )
    file = manifest.model_file.file
    reader = _reader(file)
    return reader.read_model(
        folder / file, manifest.globals, settings.mlsys_model_packages, of=f"{file} of {manifest.ref}"
    )


def _reader(file: str) -> ModuleType:
    from mlsys.models import skops_files, unpickling

    return skops_files if file == SKOPS_FILE else unpickling


def _file_sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
