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
from typing import TYPE_CHECKING, Any

from mlsys import clients
from mlsys.errors import AlreadyExistsError, NotFoundError, SchemaError, UntrustedError, VerificationError
from mlsys.gcs import gcs_get_bytes, gcs_get_file, gcs_put
from mlsys.gcs.io import uploader
from mlsys.manifest import Artifact, GoldenRows, Manifest, Signature, parse_manifest, sha256
from mlsys.models import environment
from mlsys.models.holdout import measure, write_holdout
from mlsys.models.model import Model, describe, predict, predict_frame, same
from mlsys.models.profile import golden_positions, profile
from mlsys.models.signature import infer_inputs, to_bigquery_table, to_json_columns
from mlsys.names import HOLDOUT_FILE, MANIFEST_FILE, MODEL_FILE, ModelRef, check_model_name
from mlsys.registry.lookup import LATEST, Registration, find_version, list_versions, wait_for_version
from mlsys.settings import Settings, get_settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from google.cloud.storage import Client as StorageClient

logger = logging.getLogger(__name__)


def save_model(
    estimator: Any,
    model_name: str,
    X: "pd.DataFrame | np.ndarray",  # noqa: N803
    *,
    metrics: Mapping[str, float] | None = None,
    training_query: str | None = None,
    description: str = "",
    feature_names: Sequence[str] | None = None,
    holdout: "tuple[pd.DataFrame | np.ndarray, Any] | None" = None,
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
        Name to value, a finite number, as measured on held-out data.
    training_query
        The query or table that the data came from.
    holdout
        ``(X_test, y_test)``: rows that the model has not seen, with the truth. They are kept beside the version, for
        whoever may read the bucket; a promotion measures this version and the champion on them.
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
    from mlsys.models.unpickling import read_back

    settings = settings or get_settings()
    check_model_name(model_name)
    frame, container = _as_frame(X, feature_names)
    signature = describe(estimator, infer_inputs(frame), container)
    client, bucket = clients.storage_client(settings), settings.model_bucket()
    with tempfile.TemporaryDirectory() as folder:
        model_file = Path(folder) / MODEL_FILE
        _dump(estimator, model_file)
        loaded, needed = read_back(model_file, settings.mlsys_model_packages)
        extras = _write_holdout(Path(folder), signature, holdout, feature_names)
        draft = Manifest(
            model_name=model_name,
            model_version="v1",  # until a version is claimed
            created=datetime.now(UTC),
            creator=uploader(client),
            description=description,
            git_commit=environment.git_commit(),
            artifacts=tuple(map(_artifact, [model_file, *extras])),
            signature=signature,
            metrics=_metrics(metrics or {}),
            training_query=training_query,
            training_rows=len(frame),
            python_version=environment.python_version(),
            packages=environment.packages(estimator),
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
        ref = _claim(model_file, _next_number(model_name, bucket, client, settings), model_name, bucket, client)
        for file in extras:
            gcs_put(file, bucket, ref.blob_path(file.name), create_only=True, client=client)
    manifest = draft.model_copy(update={"model_version": ref.version})
    data = manifest.to_json()
    gcs_put(
        data,
        bucket,
        ref.blob_path(MANIFEST_FILE),
        create_only=True,
        content_type="application/json",
        client=client,
    )
    logger.info("saved %s as %s", ref, ref.uri(bucket))
    if wait:
        wait_for_version(ref, manifest_sha256=sha256(data), settings=settings)
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
        path = verified_file(
            manifest.artifact(MODEL_FILE), manifest.ref, registration.bucket_name, Path(folder), client
        )
        estimator = unpickled(path, manifest, settings)
    logger.info("loaded %s from %s", manifest.ref, registration.gcs_uri)
    return Model(manifest, estimator)


def load_manifest(model_name: str, model_version: str = LATEST, *, settings: Settings | None = None) -> Manifest:
    """Return the manifest of a version as it was registered, without its files; raises as `load_model` does."""
    settings = settings or get_settings()
    registration = find_version(model_name, model_version, settings=settings)
    return registered_manifest(registration, settings, clients.storage_client(settings))


def _as_frame(X: Any, feature_names: Sequence[str] | None) -> tuple["pd.DataFrame", str]:  # noqa: N803
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


def _artifact(file: Path) -> Artifact:
    return Artifact(file=file.name, size=file.stat().st_size, sha256=_file_sha256(file))


def _dump(estimator: Any, path: Path) -> None:
    import joblib

    joblib.dump(estimator, path, compress=0)  # uncompressed: scanners and the verifying loader can read it


def _next_number(model_name: str, bucket: str, client: "StorageClient", settings: Settings) -> int:
    # A registered version whose files were deleted keeps its number: the registry would not take another manifest.
    registered = [ModelRef(model_name, v).number for v in list_versions(model_name, settings=settings)["model_version"]]
    return 1 + max(_numbers(model_name, bucket, client) + registered, default=0)


def _claim(model_file: Path, number: int, model_name: str, bucket: str, client: "StorageClient") -> ModelRef:
    while True:
        ref = ModelRef.from_number(model_name, number)
        try:
            gcs_put(model_file, bucket, ref.blob_path(MODEL_FILE), create_only=True, client=client)
        except AlreadyExistsError:  # another saver was quicker: this version is theirs
            number += 1
        else:
            return ref


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


def unpickled(path: Path, manifest: Manifest, settings: Settings) -> Any:
    """Return the estimator of a verified file, as far as the manifest and the policy let it; see `load_model`."""
    if manifest.format == 1:
        raise UntrustedError(
            f"{manifest.ref} was saved by an mlsys that did not record what its pickle needs: save the model again"
        )
    from mlsys.models.unpickling import read_model

    what = f"{MODEL_FILE} of {manifest.ref}"
    return read_model(path, manifest.globals, settings.mlsys_model_packages, of=what)


def _file_sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
