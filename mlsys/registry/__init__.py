"""The model registry: which versions exist, where they came from, and the digests that loading trusts."""

from mlsys.registry.aliases import Move, history, list_aliases, remove_alias, resolve_alias, rollback, set_alias
from mlsys.registry.events import record_event
from mlsys.registry.lookup import Registration, aliases_of, find_version, list_versions, wait_for_version
from mlsys.registry.register import UploadEvent, register
from mlsys.registry.retirement import reinstate, retire
from mlsys.registry.runs import list_runs
from mlsys.registry.sync import Synced, sync

__all__ = [
    "Move",
    "Registration",
    "Synced",
    "UploadEvent",
    "aliases_of",
    "find_version",
    "history",
    "list_aliases",
    "list_runs",
    "list_versions",
    "record_event",
    "register",
    "reinstate",
    "remove_alias",
    "resolve_alias",
    "retire",
    "rollback",
    "set_alias",
    "sync",
    "wait_for_version",
]
