"""Cloud Storage input and output: objects, bytes and files, in and out."""

from mlsys.gcs.copy import gcs_copy
from mlsys.gcs.io import StoredObject, gcs_get, gcs_get_bytes, gcs_get_file, gcs_list, gcs_put, gcs_stat

__all__ = ["StoredObject", "gcs_copy", "gcs_get", "gcs_get_bytes", "gcs_get_file", "gcs_list", "gcs_put", "gcs_stat"]
