"""Plots that a data scientist repeats for every model, over frames as ``bq_get`` returns them.

matplotlib, seaborn and plotly are imported by the first plot that needs them, not by this package.
"""

from mlsys.vis.evaluation import Evaluation, evaluate
from mlsys.vis.plots import (
    plot_calibration,
    plot_confusion_matrix,
    plot_correlations,
    plot_cost,
    plot_distributions,
    plot_feature_importance,
    plot_gain,
    plot_lift,
    plot_missing,
    plot_precision_recall,
    plot_predicted_actual,
    plot_predictions_over_time,
    plot_residuals,
    plot_roc,
    plot_target_rate,
    plot_threshold,
    plot_versions,
)

__all__ = [
    "Evaluation",
    "evaluate",
    "plot_calibration",
    "plot_confusion_matrix",
    "plot_correlations",
    "plot_cost",
    "plot_distributions",
    "plot_feature_importance",
    "plot_gain",
    "plot_lift",
    "plot_missing",
    "plot_precision_recall",
    "plot_predicted_actual",
    "plot_predictions_over_time",
    "plot_residuals",
    "plot_roc",
    "plot_target_rate",
    "plot_threshold",
    "plot_versions",
]
