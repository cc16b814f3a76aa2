"""What Terraform makes in the cloud, made in a new data folder: the model bucket, and the registry's tables and views.

Terraform and this module read the same files.
"""

import json
import re
from pathlib import Path
from string import Template

from mlsys.local.bigquery import sql
from mlsys.local.bigquery.catalog import Session, View
from mlsys.local.bigquery.statements import TableRef
from mlsys.local.bigquery.store import Engine
from mlsys.local.errors import ApiError
from mlsys.local.storage.store import ObjectStore
from mlsys.names import REGISTRY_DATASET, registry_table

_REGISTRY = Path(__file__).parents[1] / "registry"


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
    """Make what is missing; leave alone what is there, but for views whose file has changed."""
    try:
        objects.create_bucket(bucket, project, {"versioning": {"enabled": True}})
    except ApiError as exc:
        if exc.code != 409:
            raise
    with engine.database.write() as session:
        if REGISTRY_DATASET not in {d["datasetReference"]["datasetId"] for d in session.datasets(project)}:
            session.create_dataset(project, REGISTRY_DATASET, {"description": "Models and runs of every environment"})
        schemas = sorted((_REGISTRY / "schemas").glob("*.json"))
        for file in schemas:
            ref = TableRef(project, REGISTRY_DATASET, file.stem)
            if session.find(ref) is None:
                session.create(ref, json.loads(file.read_text()), {})
        tables = {file.stem: registry_table(project, file.stem).sql for file in schemas}
        for file in sorted((_REGISTRY / "views").glob("*.sql")):
            _make_view(session, TableRef(project, REGISTRY_DATASET, file.stem), file.read_text(), tables)


def _make_view(session: Session, ref: TableRef, text: str, tables: dict[str, str]) -> None:
    """Create a view, or replace it when its SQL is another. The comment before its SQL describes it."""
    there, query = session.find(ref), Template(text).substitute(tables)
    if there and there.get("view", {}).get("query") == query:
        return
    if there:
        session.drop(ref)
    (statement,) = sql.script(query, catalog=session, project=ref.project, dataset=None, parameter_types={})
    comment = re.match(r"(?:-- .*\n)*", query)[0]
    properties = {"description": " ".join(re.sub(r"(?m)^-- ", "", comment).split())}
    session.create(ref, statement.schema, properties, View(query, statement, ref.project, None))
