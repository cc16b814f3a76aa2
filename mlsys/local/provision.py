"""What Terraform makes in the cloud, made in a new data folder: the model bucket, and the registry's tables.

Terraform and this module read the same schema files.
"""

import json
from pathlib import Path

from mlsys.local.bigquery.statements import TableRef
from mlsys.local.bigquery.store import Engine
from mlsys.local.errors import ApiError
from mlsys.local.storage.store import ObjectStore
from mlsys.names import REGISTRY_DATASET

_SCHEMAS = Path(__file__).parents[1] / "registry" / "schemas"


def claim(folder: Path, project: str, bucket: str) -> None:
    """Note whose folder this is; refuse it to another project or bucket, whose uploads would never be registered."""
    file, wanted = folder / "project.json", {"project": project, "bucket": bucket}
    if not file.exists():
        file.write_text(json.dumps(wanted))
    elif (owner := json.loads(file.read_text())) != wanted:
        raise ApiError(
            409,
            "conflict",
            f"{folder} belongs to project {owner['project']} and bucket {owner['bucket']}, got {project} "
            f"and {bucket}: set MLSYS_DATA_DIR to another folder",
        )


def provision(engine: Engine, objects: ObjectStore, project: str, bucket: str) -> None:
    """Make what is missing; leave alone what is there."""
    try:
        objects.create_bucket(bucket, project, {"versioning": {"enabled": True}})
    except ApiError as exc:
        if exc.code != 409:
            raise
    with engine.database.write() as session:
        if REGISTRY_DATASET not in {d["datasetReference"]["datasetId"] for d in session.datasets(project)}:
            session.create_dataset(project, REGISTRY_DATASET, {"description": "Models and runs of every environment"})
        for file in sorted(_SCHEMAS.glob("*.json")):
            ref = TableRef(project, REGISTRY_DATASET, file.stem)
            if session.find(ref) is None:
                session.create(ref, json.loads(file.read_text()), {})
