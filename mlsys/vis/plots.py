"""All plots, by one name: of data (``data``), of models (``models``) and of operations (``operations``).

All functions take data first and options by keyword, and draw on ``ax`` or on a new figure. They return the ``Axes``
(those that draw several panels an array of them; ``interactive=True`` a plotly ``Figure``). Further keywords go to the
main artist. None calls ``show`` or touches global style. Under the title stand the rows, and what was left out or
sampled.
"""

from mlsys.vis.data import plot_correlations, plot_distributions, plot_missing, plot_target_rate
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
from mlsys.vis.operations import plot_predictions_over_time

__all__ = [
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
