"""HTTP predictions: a verified model behind JSON in Vertex AI's convention, scored as the batch job scores."""

from mlsys.serve.instances import read_instances, to_batch
from mlsys.serve.resident import Resident

__all__ = ["Resident", "read_instances", "to_batch"]
