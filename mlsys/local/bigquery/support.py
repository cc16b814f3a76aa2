"""What of GoogleSQL the twin answers and what it refuses, as a page made from the tables that decide it.

``python -m mlsys.local.bigquery.support > mlsys/local/SQL.md`` writes the page anew.
"""

from mlsys.local.bigquery import sql

_PAGE = """\
# What the offline twin answers, and what it refuses

## BigQuery's services

Refused by name: types BIGNUMERIC, GEOGRAPHY, INTERVAL, RANGE and parametrised ones; policy tags and default values;
legacy SQL, sessions, dry runs of scripts, DDL inside a transaction, copy and extract jobs; loads from `gs://`, Avro,
ORC, and CSV or JSON with autodetection; partition decorators except of a column's DAY partitions; reads in AVRO, with a
`row_restriction`, from a past `snapshot_time`, or sampled; `requirePartitionFilter` and expiring partitions. Kept as
metadata only: clustering and a table's expiration. Bytes processed count every column of the tables read, so they are
too high rather than too low. Routines, models, row access policies, IAM, the deletion of jobs and updates by PUT have
no route (501).

## Cloud Storage

Refused by name: ACLs, IAM, HMAC keys, notifications, retention, lifecycle, soft delete, customer-managed keys, holds,
`customTime`, preconditions on buckets, gzip content decompressed on the way, and every query parameter or header that
an operation does not list. Batches, compose, updates by PUT and the XML API have no route (501).

# GoogleSQL

Made from the code's own tables by `python -m mlsys.local.bigquery.support`; a test fails when it is out of date.
The twin works by allow-list: what is not listed as answered is refused with HTTP 400, "not supported locally: …", and
what is listed answers as BigQuery does, or is refused where a value makes that doubtful.

## Answered

{answered}

## Refused by name

{refused}
"""


def page() -> str:
    """Return the page in Markdown."""
    return _PAGE.format(answered=_lists(sql.supported()), refused=_lists(sql.refusals()))


def _lists(groups: dict[str, list[str]]) -> str:
    return "\n\n".join(
        f"**{name.capitalize()}** ({len(items)}): " + ", ".join(f"`{item}`" for item in items)
        for name, items in groups.items()
    )


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
