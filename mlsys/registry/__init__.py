"""The model registry: which versions exist, where they came from, and the digests that loading trusts."""

from mlsys.registry.lookup import Registration, find_version, list_versions, wait_for_version
from mlsys.registry.register import UploadEvent, register

__all__ = ["Registration", "UploadEvent", "find_version", "list_versions", "register", "wait_for_version"]
