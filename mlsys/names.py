"""Every name that mlsys derives, once. Terraform, DAGs and workflows are held to these by tests.

Nothing here reads settings or a network: bucket names and the project come in as arguments.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from mlsys.errors import ModelRefError, TableIdError

MODEL_FILE = "model.joblib"
SKOPS_FILE = "model.skops"  # in its place, of a model that was saved in that format
LATEST = "latest"  # the highest registered version; no alias can have this name
EVALUATION_FILE = "evaluation.json"  # what was measured, for the model card
CARD_FILE = "card.html"  # beside a version, and no part of it: it can be drawn again
HOLDOUT_FILE = "holdout.parquet"  # rows that the model never saw, with the truth
MANIFEST_FILE = "manifest.json"  # written last: a version without it is not there yet
REGISTRY_DATASET = "ml_registry"

_MODEL_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,48}[a-z0-9])?")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
_ALIAS = re.compile(r"(?!v[0-9]+$|latest$)[a-z](?:[a-z0-9-]{0,48}[a-z0-9])?")
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{2,28}[a-z0-9]")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
# Letters, marks, digits, connectors, dashes and spaces of any script, and an optional partition ($20240131).
_TABLE = re.compile(r"[^\W$](?:[\w \-\u2010-\u2015]{0,1023})(?:\$[0-9]{4,10})?")

_SERVICE_ACCOUNT_LIMIT = 30  # Google's


@dataclass(frozen=True)
class TableId:
    """A BigQuery table by its full path.

    Examples
    --------
    >>> TableId.parse("shoufianesys.titanic.passengers").dataset
    'titanic'
    """

    project: str
    dataset: str
    table: str

    @classmethod
    def parse(cls, table_id: "str | TableId") -> Self:
        """Read ``project.dataset.table``, with or without backticks; raise `TableIdError` for anything else."""
        parts = str(table_id).strip("`").rsplit(".", 2)
        if len(parts) == 3:
            project, dataset, table = parts
            if _PROJECT.fullmatch(project) and _DATASET.fullmatch(dataset) and _TABLE.fullmatch(table):
                return cls(project, dataset, table)
        raise TableIdError(f"table_id must be 'project.dataset.table', got {str(table_id)!r}")

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def sql(self) -> str:
        """The path as GoogleSQL quotes it."""
        return f"`{self}`"

    def sibling(self, table: str) -> "TableId":
        """Return another table of the same dataset."""
        return TableId(self.project, self.dataset, table)


@dataclass(frozen=True)
class ModelRef:
    """One version of one model: ``titanic-survival/v1``.

    Examples
    --------
    >>> ModelRef("titanic-survival", "v2").blob_path(MANIFEST_FILE)
    'titanic-survival/v2/manifest.json'
    """

    name: str
    version: str

    def __post_init__(self) -> None:
        check_model_name(self.name)
        if not _VERSION.fullmatch(self.version):
            raise ModelRefError(f"model_version must be 'v1', 'v2', …, got {self.version!r}")

    @classmethod
    def from_number(cls, name: str, number: int) -> Self:
        """Return version ``number`` (from 1) of model ``name``."""
        return cls(name, f"v{number}")

    @classmethod
    def from_blob_path(cls, blob_path: str) -> "tuple[ModelRef, str] | None":
        """Split ``titanic-survival/v1/model.joblib`` into the version and the file; None for any other object."""
        name, _, rest = blob_path.partition("/")
        version, _, file = rest.partition("/")
        if not (file and _MODEL_NAME.fullmatch(name) and _VERSION.fullmatch(version)):
            return None
        return cls(name, version), file

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def number(self) -> int:
        """The version as a number: 1 for ``v1``."""
        return int(self.version[1:])

    @property
    def prefix(self) -> str:
        """The folder of this version in a model bucket, with its closing slash."""
        return f"{self.name}/{self.version}/"

    def blob_path(self, file: str) -> str:
        """Return the object name of one of this version's files."""
        return self.prefix + file

    def uri(self, bucket_name: str) -> str:
        """Return ``gs://bucket/model/version/``."""
        return f"gs://{bucket_name}/{self.prefix}"


def check_model_name(name: str) -> str:
    """Return ``name`` when it can name a bucket folder, a Cloud Run job and a label; raise `ModelRefError` if not."""
    if not _MODEL_NAME.fullmatch(name):
        raise ModelRefError(
            f"model_name must be lower-case letters, digits and hyphens, start with a letter, and have at most 50 "
            f"characters (like 'titanic-survival'), got {name!r}"
        )
    return name


def is_alias(text: str) -> bool:
    """Say whether ``text`` can name a version of a model, as ``champion`` does; versions and ``latest`` cannot."""
    return _ALIAS.fullmatch(text) is not None


def check_alias(alias: str) -> str:
    """Return ``alias`` when it can be one; raise `ModelRefError` if not."""
    if not is_alias(alias):
        raise ModelRefError(
            f"an alias must be lower-case letters, digits and hyphens, start with a letter, have at most 50 characters "
            f"(like 'champion'), and be neither a version nor 'latest', got {alias!r}"
        )
    return alias


def as_version(text: str) -> str:
    """Return ``v3`` for ``v3`` and ``3``, and ``latest`` and aliases as they are; raise `ModelRefError` otherwise."""
    version = f"v{text}" if text.isdecimal() else text
    if not (version == LATEST or _VERSION.fullmatch(version) or is_alias(version)):
        raise ModelRefError(f"model_version must be 'v3', '3', 'latest' or an alias like 'champion', got {text!r}")
    return version


def dag_id(model_name: str, env: str) -> str:
    """Return the name that a model's DAG and its Cloud Run job share: ``titanic-survival-dev``."""
    return f"{model_name}-{env}"


def ci_job(model_name: str, env: str) -> str:
    """Return the name of the workflow job that deploys a model: ``deploy-titanic-survival-dev``."""
    return f"deploy-{model_name}-{env}"


def service_account_id(model_name: str, env: str) -> str:
    """Return the account id of a model's service account, in Google's 30 characters.

    ``titanic-survival-dag-sa-staging`` has 31: a name that is too long shortens ``staging`` to ``stg``, and when that
    is not enough the model, keeping four hexadecimal digits of its SHA-256 so that two long names stay apart.
    Terraform computes the same.
    """
    account = f"{model_name}-dag-sa-{env}"
    if len(account) <= _SERVICE_ACCOUNT_LIMIT:
        return account
    suffix = f"-dag-sa-{'stg' if env == 'staging' else env}"
    if len(model_name + suffix) <= _SERVICE_ACCOUNT_LIMIT:
        return model_name + suffix
    suffix = f"-{hashlib.sha256(model_name.encode()).hexdigest()[:4]}{suffix}"
    return model_name[: _SERVICE_ACCOUNT_LIMIT - len(suffix)].rstrip("-") + suffix


def service_account_email(model_name: str, env: str, project: str) -> str:
    """Return the address of a model's service account."""
    return f"{service_account_id(model_name, env)}@{project}.iam.gserviceaccount.com"


def run_prefix(run_id: str, execution: str) -> str:
    """Return the folder, in the model bucket, of what the tasks of one execution of a run agree on.

    No model's name starts with an underscore, so it is in no model's way.
    """
    return f"_runs/{run_id}/{execution}/"


def rejects_table(output: TableId) -> TableId:
    """Return the table of the rows that could not be scored."""
    return output.sibling(f"{output.table}_rejects")


def registry_table(project: str, table: str) -> TableId:
    """Return a table of the registry: ``models``, ``events`` or ``runs``."""
    return TableId(project, REGISTRY_DATASET, table)


def labels(*, env: str, model: str = "", model_version: str = "", run_id: str = "") -> dict[str, str]:
    """Return the labels that every BigQuery job of mlsys carries; empty ones are left out."""
    named = {"env": env, "model": model, "model_version": model_version, "run_id": run_id, "managed_by": "mlsys"}
    return {key: _label_value(value) for key, value in named.items() if value}


def _label_value(text: str) -> str:
    # Google allows lower-case letters, digits, hyphen and underscore, 63 in all.
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]
