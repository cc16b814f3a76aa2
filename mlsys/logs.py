"""Logs: lines that Cloud Logging understands on Cloud Run, lines for a person elsewhere.

Only commands set logs up, never an import; a notebook keeps its own.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

type Style = Literal["json", "text"]

_now: dict = {}  # how this process logs, if a command has said so: for `bind`, and for its children


class _Context(logging.Filter):
    """Adds the fields that every line of this process carries."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self.fields = fields

    def filter(self, record: logging.LogRecord) -> bool:
        vars(record).update(self.fields)
        return True


def configure(style: Style, level: int, **fields: str) -> None:
    """Send this process's logs to stderr in one style, each line with ``fields``; replaces an earlier call."""
    handler = logging.StreamHandler(sys.stderr)
    context = _Context(fields)
    handler.addFilter(context)
    handler.setFormatter(_json() if style == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    _now.update(style=style, level=level, fields=context.fields)


def bind(**fields: str) -> None:
    """Add fields to every line from now on, when `configure` was called."""
    _now.get("fields", {}).update(fields)


def are_json() -> bool:
    """Say whether this process logs for Cloud Logging."""
    return _now.get("style") == "json"


def current() -> Callable[[], None]:
    """Return what makes another process log as this one does; it can be pickled."""
    return partial(configure, _now["style"], _now["level"], **_now["fields"]) if _now else _nothing


def _nothing() -> None:
    """Set nothing up: this process did not either."""


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    names = {"levelname": "severity", "name": "logger", "exc_info": "stack_trace"}
    return JsonFormatter(
        "{levelname}{name}{message}{processName}",
        style="{",
        rename_fields=names,
        timestamp="time",
        json_ensure_ascii=False,
    )
