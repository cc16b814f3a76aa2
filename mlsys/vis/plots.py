"""All plots by name: of data (``data``), of models (``models``, ``inspection``), of operations (``operations``).

All functions take data first and options by keyword, and draw on ``ax`` or on a new figure. They return the ``Axes``
(those that draw several panels an array of them; ``interactive=True`` a plotly ``Figure``). Further keywords go to the
main artist. None calls ``show`` or touches global style. Under the title stand the rows, and what was left out or
sampled.
"""

from mlsys.vis.data import (
    plot_correlations,
    plot_distributions,
    plot_drift,
    plot_leakage,
    plot_missing,
    plot_target,
    plot_target_classes,
    plot_target_mean,
    plot_target_over_time,
    plot_target_rate,
)
from mlsys.vis.inspection import (
    plot_learning_curve,
    plot_partial_dependence,
    plot_permutation_importance,
)
from mlsys.vis.models import (
    plot_calibration,
    plot_confusion_matrix,
    plot_cost,
    plot_feature_importance,
    plot_gain,
    plot_lift,
    plot_precision_recall,
    plot_predicted_actual,
    plot_residuals,
    plot_roc,
    plot_threshold,
    plot_versions,
)
from mlsys.vis.operations import (
    plot_predictions_over_time,
    plot_rejects,
    plot_run_durations,
)

__all__ = [
    "plot_calibration",
    "plot_confusion_matrix",
    "plot_correlations",
    "plot_cost",
    "plot_distributions",
    "plot_drift",
    "plot_feature_importance",
    "plot_gain",
    "plot_leakage",
    "plot_learning_curve",
    "plot_lift",
    "plot_missing",
    "plot_partial_dependence",
    "plot_permutation_importance",
    "plot_precision_recall",
    "plot_predicted_actual",
    "plot_predictions_over_time",
    "plot_rejects",
    "plot_residuals",
    "plot_roc",
    "plot_run_durations",
    "plot_target",
    "plot_target_classes",
    "plot_target_mean",
    "plot_target_over_time",
    "plot_target_rate",
    "plot_threshold",
    "plot_versions",
]
