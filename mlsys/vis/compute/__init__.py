"""The arithmetic of ``mlsys.vis``: arrays and frames in, small frames and records out, nothing drawn.

NULL means any missing value, whatever the dtype. Pairs of arrays are matched by position, never by index.
"""

from mlsys.vis.compute import columns, data, drift, inspection, metrics, models, targets, times

__all__ = ["columns", "data", "drift", "inspection", "metrics", "models", "targets", "times"]
