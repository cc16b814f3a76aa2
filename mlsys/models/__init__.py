"""Model versions: a folder of artifacts in a bucket, written once, verified before it is used."""

from mlsys.models.model import Model
from mlsys.models.promotion import Promotion, check_promotion, promote
from mlsys.models.store import load_evaluation, load_manifest, load_model, load_unregistered_model, save_model
from mlsys.models.verify import Verification, verify_model, verify_models

__all__ = [
    "Model",
    "Promotion",
    "Verification",
    "check_promotion",
    "load_evaluation",
    "load_manifest",
    "load_model",
    "load_unregistered_model",
    "promote",
    "save_model",
    "verify_model",
    "verify_models",
]
