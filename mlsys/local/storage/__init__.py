"""Cloud Storage on plain files."""
