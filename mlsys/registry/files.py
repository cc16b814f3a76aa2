"""The registry's table schemas and SQL, kept as files because Terraform reads them too."""

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
    """Return a statement with the tables of ``project`` in the places that it names ``${models}``."""
    text = (_HERE / "sql" / f"{name}.sql").read_text()
    return Template(text).substitute(models=registry_table(project, "models").sql)
