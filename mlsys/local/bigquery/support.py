"""What of GoogleSQL the twin answers and what it refuses, as a page made from the tables that decide it.

``python -m mlsys.local.bigquery.support > mlsys/local/SQL.md`` writes the page anew.
"""

from mlsys.local.bigquery import sql

_PAGE = """\
# GoogleSQL in the offline twin

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
