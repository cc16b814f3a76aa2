"""The page of an `Evaluation`, drawn from what it keeps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlsys.vis import compute, models
from mlsys.vis import drawing as draw
from mlsys.vis.evaluation import POINTS, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes"], Any]


def draw_page(found: Evaluation) -> "Figure":
    """Draw the panels that a task has, two or three to a row."""
    panels = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[found.task](found)
    if "importance" in found.curves:
        panels.append(lambda ax: _importance(found, ax))
    across = 2 if len(panels) == 4 else min(3, len(panels))
    down = -(-len(panels) // across)
    title = f"{found.name}: {found.target}, n = {found.rows:,}"
    height = 4.2 if len(found.classes) <= 8 else 5.2
    figure, grid = draw.page(down, across, title=title, width=5.2, height=height)
    for ax, panel in zip(grid.flat, panels, strict=False):
        panel(ax)
    for ax in grid.flat[len(panels) :]:
        ax.remove()
    return figure


def sweep(found: Evaluation) -> compute.models.Sweep:
    """Return the stored thresholds of a binary evaluation."""
    table, positives = found.curve("thresholds"), _positives(found)
    hits, false = (table[name].to_numpy(float) for name in ("true_positives", "false_positives"))
    thresholds, positive = table["threshold"].to_numpy(float), str(found.positive)
    return compute.models.Sweep(thresholds, hits, false, found.rows, positives, positive, len(table))


def _positives(found: Evaluation) -> int:
    return int(np.sum(found.curves["confusion"]["counts"][found.classes.index(str(found.positive))]))


def calibration(found: Evaluation) -> compute.models.Calibration:
    """Return the stored bins of an evaluation with probabilities."""
    table, scores = found.curve("calibration"), found.curve("scores")
    table["rate"] = table["positives"] / table["n"]
    table["low"], table["high"] = compute.columns.wilson(table["positives"], table["n"])
    counts = scores["rows"] if "rows" in scores else scores["positives"] + scores["negatives"]
    brier, positive = found.metrics.get("brier_score", float("nan")), found.positive or "the likeliest class"
    return compute.models.Calibration(table, brier, counts.to_numpy(), found.rows, positive)


def _binary(found: Evaluation) -> list[Panel]:
    panels: list[Panel] = [lambda ax: _confusion(found, ax)]
    if "thresholds" not in found.curves:
        return panels
    swept = sweep(found)
    if 0 < swept.positives < swept.n:
        area, average = found.metrics["roc_auc"], found.metrics["average_precision"]
        panels += [
            lambda ax: models.roc_chart(swept, area).draw(ax, False, {}),
            lambda ax: models.precision_recall_chart(swept, average).draw(ax, False, {}),
            lambda ax: models.threshold_chart(swept).draw(ax, False, {}),
        ]
    if "calibration" in found.curves:
        panels.append(lambda ax: models.draw_calibration(calibration(found), ax, {}))
    else:
        panels.append(lambda ax: models.gain_chart(swept).draw(ax, False, {}))
    return panels


def _multiclass(found: Evaluation) -> list[Panel]:
    panels: list[Panel] = [lambda ax: _confusion(found, ax), lambda ax: _classes(found, ax)]
    if found.curves.get("roc", {}).get("x"):
        panels.append(lambda ax: _roc_by_class(found, ax))
    if "calibration" in found.curves:
        words = {"x": "probability of {}", "y": "share of rows where it is right", "title": "Calibration"}
        panels.append(lambda ax: models.draw_calibration(calibration(found), ax, {}, **words))
    return panels


def _regression(found: Evaluation) -> list[Panel]:
    points = found.curve("points").to_numpy(float)
    summary = {name: found.metrics.get(name, float("nan")) for name in ("rmse", "mae", "r2", "bias")}
    of = compute.models.Residuals(points[:, 0], points[:, 1] - points[:, 0], found.rows, summary, found.curve("bands"))
    return [
        lambda ax: models.draw_predicted_actual(of, ax, {}),
        lambda ax: models.draw_residuals(of, ax, {}),
        lambda ax: _errors(found, ax),
    ]


def _confusion(found: Evaluation, ax: "Axes") -> None:
    counts = pd.DataFrame(found.curves["confusion"]["counts"], index=found.classes, columns=found.classes)
    table = compute.models.most_frequent(counts, 12)
    models.draw_confusion(table, found.metrics["accuracy"], 0, ax, {"cbar": False})


def _classes(found: Evaluation, ax: "Axes") -> None:
    """Draw precision and recall of each class."""
    table = found.curve("classes").astype({"precision": float, "recall": float, "low": float, "high": float})
    shown = table.sort_values("n", ascending=False, kind="stable").head(15)
    rows = np.arange(len(shown))
    draw.label_rows(ax, [f"{name} ({n:,})" for name, n in zip(shown["class"], shown["n"], strict=True)], width=24)
    ax.spines[["top", "right"]].set_visible(False)
    around = [(shown["recall"] - shown["low"]) * 100, (shown["high"] - shown["recall"]) * 100]
    style: dict[str, Any] = {"fmt": "o", "color": draw.BLUE, "capsize": 2, "clip_on": False}
    ax.errorbar(shown["recall"] * 100, rows - 0.12, xerr=around, label="recall", **style)
    style = {"color": draw.ORANGE, "linestyle": "none", "marker": "D", "markerfacecolor": "white"}
    ax.plot(shown["precision"] * 100, rows + 0.12, label="precision", **style)
    lowest = min(shown["low"].min(), shown["precision"].min()) * 100
    ax.set(xlim=draw.within_100(lowest, 100), xlabel="rows (%); recall with 95 % interval")
    ax.legend(frameon=False, fontsize="small", ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    hidden = f"the {len(shown)} most frequent of {len(table)} classes" if len(shown) < len(table) else ""
    draw.headline(ax, "Classes", "rows of the class in brackets", hidden)


def _roc_by_class(found: Evaluation, ax: "Axes") -> None:
    table = found.curve("roc")
    lines = [
        draw.Line(part["x"], part["y"], f"{draw.text(name, 20)}: AUC = {part['auc'].iloc[0]:.3f}", "", None)
        for name, part in table.groupby("class", sort=False)
    ]
    n, k = len(lines), len(found.classes)
    notes = [f"n = {found.rows:,}", f"the {n} most frequent of {k} classes" if n < k else ""]
    x, y, chance = "false positive rate", "true positive rate", ([0, 1], [0, 1], "chance")
    draw.Chart("ROC, one class against the rest", notes, x, y, lines, chance, legend="lower right").draw(ax, False, {})


def _errors(found: Evaluation, ax: "Axes") -> None:
    bins = found.curve("residuals").to_numpy(float)
    ax.spines[["top", "right"]].set_visible(False)
    style: dict[str, Any] = {"color": draw.BLUE, "edgecolor": "white", "linewidth": 0.5, "align": "edge"}
    ax.bar(bins[:, 0], bins[:, 2], bins[:, 1] - bins[:, 0], **style)
    ax.axvline(0, color=draw.DARK, linestyle=":", linewidth=1)
    draw.count_axis(ax.yaxis)
    ax.set_xlabel(f"actual {compute.columns.MINUS} predicted")
    outside = found.rows - int(bins[:, 2].sum())
    draw.headline(ax, "Residuals", f"n = {found.rows:,}", f"{outside:,} beyond the axis" if outside else "")


def _importance(found: Evaluation, ax: "Axes") -> None:
    table = found.curve("importance").set_index("feature")
    kept = f"the {len(table)} largest were kept" if len(table) == POINTS else ""
    models.draw_importance(table, found.importance_measure, 12, ax, {}, kept)
