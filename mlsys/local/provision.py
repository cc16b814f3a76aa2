"""What Terraform makes in the cloud, made in a new data folder: the model buckets, and the registry's tables and views.

Terraform and this module read the same files.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import cast

from mlsys.local.bigquery import sql, types
from mlsys.local.bigquery.catalog import Session, View, path_of
from mlsys.local.bigquery.statements import Query, TableRef
from mlsys.local.bigquery.store import Engine
from mlsys.local.errors import ApiError
from mlsys.local.storage.store import ObjectStore
from mlsys.names import REGISTRY_DATASET, registry_table

_REGISTRY = Path(__file__).parents[1] / "registry"


def claim(folder: Path, project: str, buckets: Mapping[str, str]) -> None:
    """Note whose folder this is; refuse it to another project or bucket, whose uploads would never be registered."""
    file, wanted = folder / "project.json", {"project": project, "buckets": dict(buckets)}
    owner = {"project": project, "buckets": {}} | (json.loads(file.read_text()) if file.exists() else {})
    if owner["project"] != project or owner["buckets"] | wanted["buckets"] != wanted["buckets"] | owner["buckets"]:
        raise ApiError(
            409,
            "conflict",
            f"{folder} belongs to {_owner(owner)}, got {_owner(wanted)}: set MLSYS_DATA_DIR to another folder",
        )
    if owner["buckets"] != (all_buckets := owner["buckets"] | wanted["buckets"]):
        file.write_text(json.dumps({"project": project, "buckets": all_buckets}))


def _owner(seed: dict) -> str:
    return f"project {seed['project']} and buckets {', '.join(seed['buckets'].values())}"


def provision(engine: Engine, objects: ObjectStore, project: str, buckets: Iterable[str]) -> None:
    """Make what is missing; leave alone what is there, but for views whose file has changed."""
    for bucket in buckets:
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
            _make_table(session, TableRef(project, REGISTRY_DATASET, file.stem), json.loads(file.read_text()))
        tables = {file.stem: registry_table(project, file.stem).sql for file in schemas}
        for file in sorted((_REGISTRY / "views").glob("*.sql")):
            _make_view(session, TableRef(project, REGISTRY_DATASET, file.stem), file.read_text(), tables)


def _make_table(session: Session, ref: TableRef, schema: list[dict]) -> None:
    """Create a table, or add the columns that it lacks: the folder may be older than they are."""
    there = session.find(ref)
    if there is None:
        session.create(ref, schema, {})
        return
    old = there["schema"]["fields"]
    merged = types.merged(path_of(ref), old, types.normalize(schema), ("ALLOW_FIELD_ADDITION",), whole=True)
    if merged != old:
        session.alter(ref, merged)


def _make_view(session: Session, ref: TableRef, text: str, tables: dict[str, str]) -> None:
    """Create a view, or replace it when its SQL is another. The comment before its SQL describes it."""
    there, query = session.find(ref), Template(text).substitute(tables)
    if there and there.get("view", {}).get("query") == query:
        return
    if there:
        session.drop(ref)
    (found,) = sql.script(query, catalog=session, project=ref.project, dataset=None, parameter_types={})
    statement = cast("Query", found)
    comment = re.match(r"(?:-- .*\n)*", query)[0]
    properties = {"description": " ".join(re.sub(r"(?m)^-- ", "", comment).split())}
    session.create(ref, statement.schema, properties, View(query, statement, ref.project, None))
