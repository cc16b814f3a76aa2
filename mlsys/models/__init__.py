"""Model versions: a folder of artifacts in a bucket, written once, verified before it is used."""

from mlsys.models.model import Model
from mlsys.models.store import load_manifest, load_model, save_model

__all__ = ["Model", "load_manifest", "load_model", "save_model"]
