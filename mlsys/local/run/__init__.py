"""Cloud Run jobs: the v2 REST API, with each task as a process of ``scripts/predict.py``."""
