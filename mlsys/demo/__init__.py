"""The Titanic example that ``mlsys demo`` tells, and its source table for notebooks."""

from mlsys.demo.titanic import load_passengers, passengers_table

__all__ = ["load_passengers", "passengers_table"]
