"""The registry's table schemas, views and SQL, kept as files because Terraform reads them too."""

import json
from functools import cache
from pathlib import Path
from string import Template

from mlsys.names import registry_table

_HERE = Path(__file__).parent


@cache
def schema(table: str) -> list[dict]:
    """Return the columns of a registry table in BigQuery's JSON form."""
    return json.loads((_HERE / "schemas" / f"{table}.json").read_text())


def sql(name: str, project: str) -> str:
    """Return a statement with the tables of ``project`` in the places that it names ``${models}``, ``${events}`` …."""
    return _fill(_HERE / "sql" / f"{name}.sql", project)


def views(project: str) -> dict[str, str]:
    """Return the SQL of the registry's views by name. Each reads tables alone: they can be created in any order.

    The comment that a view's SQL starts with is its description.
    """
    return {path.stem: _fill(path, project) for path in sorted((_HERE / "views").glob("*.sql"))}


def _fill(path: Path, project: str) -> str:
    tables = (file.stem for file in (_HERE / "schemas").glob("*.json"))
    return Template(path.read_text()).substitute({name: registry_table(project, name).sql for name in tables})
