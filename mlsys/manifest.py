"""The manifest of a model version: what `mlsys.models` writes beside the model and `mlsys.registry` reads.

It is the last file of a version to be written, so a version without it is not there yet.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mlsys.errors import VerificationError
from mlsys.html import facts
from mlsys.names import MODEL_FILE, SKOPS_FILE, ModelRef

Task = Literal["binary", "multiclass", "regression"]
Container = Literal["dataframe", "numpy"]
# What a manifest may hold is what the registry's columns can: an event whose row BigQuery refuses would come forever.
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_File = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]  # a name, never a path
_Global = Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")]
_Bytes = Annotated[int, Field(ge=0, le=5 << 40)]  # Cloud Storage's limit for one object
_Rows = Annotated[int, Field(ge=0, lt=1 << 63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Artifact(_Part):
    """One file of a version. ``size`` is in bytes."""

    file: _File
    size: _Bytes
    sha256: _Sha256


class InputField(_Part):
    """One input column as training saw it.

    ``type`` is BigQuery's (``INT64``, ``STRING`` …), ``dtype`` the pandas dtype that the model was fitted on.
    ``nullable`` tells whether training saw a missing value, and ``missing`` what stood for it.
    ``categories`` are the levels of a categorical column, in order, as JSON writes values of ``type``: numbers, text
    and booleans as they are, dates and the like as text (see `mlsys.models.signature`); ``category_dtype`` is the dtype
    of the levels.
    """

    name: str
    type: str
    dtype: str
    nullable: bool
    missing: Literal["nan", "none", "na"] = "nan"
    categories: tuple[Any, ...] | None = None
    category_dtype: str | None = None
    ordered: bool = False


class OutputField(_Part):
    """One column that a prediction adds, with its BigQuery type and mode."""

    name: str
    type: str
    mode: Literal["NULLABLE", "REQUIRED", "REPEATED"] = "NULLABLE"


class Signature(_Part):
    """What goes into a model and what comes out. ``classes`` are in the order of ``predict_proba``."""

    task: Task
    container: Container
    inputs: tuple[InputField, ...]
    outputs: tuple[OutputField, ...]
    classes: tuple[Any, ...] | None = None


class GoldenRows(_Part):
    """A few training rows with the outputs that the model gave when it was saved; a list of JSON values per column."""

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]


class Manifest(_Part):
    """Everything that is known about a version when it is saved. Times are UTC.

    ``globals`` are the classes and functions that the model's file needs, each ``module:name``, in order.
    """

    format: Literal[1, 2] = 2  # 1 had no globals
    model_name: str
    model_version: str
    created: _Moment
    creator: str
    description: str = ""
    intended_use: str = ""
    limits: str = ""
    git_commit: str | None = None
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1, max_length=1000)]
    signature: Signature
    metrics: dict[str, _Finite] = {}
    training_query: str | None = None
    training_rows: _Rows
    python_version: str
    packages: dict[str, str]
    globals: Annotated[tuple[_Global, ...], Field(max_length=10_000)] = ()
    golden_rows: GoldenRows
    profile: dict[str, dict[str, Any]] = {}

    @property
    def ref(self) -> ModelRef:
        """The version that this manifest belongs to."""
        return ModelRef(self.model_name, self.model_version)

    @property
    def model_file(self) -> Artifact:
        """The entry of the model itself; raise `VerificationError` when the manifest lists none."""
        return self.artifact(next((a.file for a in self.artifacts if a.file == SKOPS_FILE), MODEL_FILE))

    def artifact(self, file: str) -> Artifact:
        """Return the entry of one file; raise `VerificationError` when the manifest does not list it."""
        for artifact in self.artifacts:
            if artifact.file == file:
                return artifact
        raise VerificationError(f"the manifest of {self.ref} lists no {file!r}: the version cannot be trusted")

    def lines(self) -> dict[str, str]:
        """Return what is known, as headings and what is said about each: for a terminal or a notebook."""
        inputs, outputs = self.signature.inputs, self.signature.outputs
        return {
            "description": self.description or "none",
            **{name: text for name, text in (("for", self.intended_use), ("limits", self.limits)) if text},
            "created": f"{self.created:%Y-%m-%d %H:%M:%S} UTC by {self.creator}",
            "commit": self.git_commit or "none",
            "trained on": f"{self.training_rows:,} rows of {self.training_query or 'unknown'}",
            "task": self.signature.task,
            "metrics": "\n".join(f"{name} {value:.4g}" for name, value in self.metrics.items()) or "none",
            "inputs": "\n".join(f"{f.name} {f.type}{'' if f.nullable else ' NOT NULL'}" for f in inputs),
            "outputs": "\n".join(f"{f.name} {f.type}" for f in outputs),
            "files": "\n".join(f"{a.file} {a.size:,} bytes, SHA-256 {a.sha256[:12]}…" for a in self.artifacts),
            "environment": ", ".join([f"Python {self.python_version}", *map(" ".join, self.packages.items())]),
        }

    def _repr_html_(self) -> str:
        return facts(str(self.ref), self.lines())

    def has(self, file: str) -> bool:
        """Whether a file belongs to the version."""
        return any(artifact.file == file for artifact in self.artifacts)

    def to_json(self) -> bytes:
        """Return the bytes that are stored, whose SHA-256 the registry records."""
        return self.model_dump_json(indent=2).encode()


def parse_manifest(data: bytes, ref: ModelRef) -> Manifest:
    """Read the stored bytes of the manifest of ``ref``.

    Raises
    ------
    VerificationError
        They are no manifest, or the manifest of another version.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise VerificationError(f"the manifest of {ref} cannot be read ({place or 'file'}: {first['msg']})") from None
    if (manifest.model_name, manifest.model_version) != (ref.name, ref.version):
        raise VerificationError(
            f"the manifest of {ref} is that of {manifest.model_name}/{manifest.model_version}: it is in the wrong place"
        )
    return manifest


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal, as manifests and the registry write it."""
    return hashlib.sha256(data).hexdigest()
