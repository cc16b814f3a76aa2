"""Deployment scripts: the Cloud Run job's entry point."""
