"""All plots on one page: ``uv run python -m mlsys.vis.gallery`` writes ``gallery/index.html`` and its pictures.

Each plot is drawn from few rows, from many, and from what is hard on it: NULLs, one class, 50 categories, long names.
The data are made up, with a fixed seed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from inspect import getdoc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlsys import vis
from mlsys.vis import html

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Plots of mlsys.vis</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #222; }
nav { columns: 16em; margin: 1em 0 2em; } nav a { display: block; }
section { border-top: 1px solid #ccc; padding-top: 0.5em; }
.row { display: flex; flex-wrap: wrap; gap: 1.5em; align-items: flex-start; }
figure { margin: 0; max-width: 100%; } figcaption { color: #555; } img { max-width: 100%; height: auto; }
.plotly { width: 44em; max-width: 100%; height: 30em; }
</style><script src="plotly.min.js"></script><h1>Plots of mlsys.vis</h1>
<p>Drawn by <code>uv run python -m mlsys.vis.gallery</code> from made-up passengers.</p>
"""


@dataclass(frozen=True)
class Passengers:
    """Made-up passengers in the dtypes that ``bq_get`` returns, a score for each, and their predictions."""

    n: int
    nulls: float = 0.15

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Return ``n`` rows; ``boat`` knows what became of them."""
        rng, n = np.random.default_rng(7), self.n
        age, pclass = rng.gamma(6, 5, n), rng.integers(1, 4, n)
        signal = rng.normal(0, 1, n) - 0.8 * pclass + 2.2 * (rng.random(n) < 0.4) + 1.4
        alive = signal > rng.normal(0, 0.5, n)
        alive[:2] = [True, False][:n]
        port = rng.choice(np.array(["Cherbourg", "Queenstown", "Southampton"]), n, p=[0.2, 0.1, 0.7])
        cabins = np.array(
            [f"Deck {chr(65 + i % 7)}, a cabin with a rather long name and number {i}" for i in range(50)]
        )
        cabin = cabins[np.minimum(rng.geometric(0.06, n) - 1, 49)]
        days = pd.Timestamp("2026-01-01T00:00:00Z") + pd.to_timedelta(
            np.sort(rng.integers(0, 90 * 86_400, n)), unit="s"
        )
        table = {
            "age": pd.Series(age, dtype="Float64"),
            "fare": np.exp(rng.normal(4 - 0.7 * pclass, 0.8, n)),
            "pclass": pd.Series(pclass, dtype="Int64"),
            "port": pd.Series(port, dtype="str"),
            "cabin": pd.Series(cabin, dtype="str"),
            "child": pd.Series(age < 16, dtype="boolean"),
            "boarded": pd.Series(days).astype("datetime64[us, UTC]"),
            "boat": pd.Series(np.where(alive, rng.integers(1, 17, n).astype(str), "none")).mask(~alive),
            "survived": pd.Series(alive.astype(int), dtype="Int64"),
        }
        frame = pd.DataFrame(table)
        for name in ("age", "port", "cabin", "child"):
            frame[name] = frame[name].mask(rng.random(n) < self.nulls)
        return frame

    @cached_property
    def y(self) -> pd.Series:
        """Return who survived."""
        return self.frame["survived"]

    @cached_property
    def score(self) -> np.ndarray:
        """Return a fair guess at it."""
        rng = np.random.default_rng(8)
        p = 0.15 + 0.7 * self.y.to_numpy(float) + rng.normal(0, 0.28, self.n)
        return 1 / (1 + np.exp(-5 * (p - 0.5)))

    @cached_property
    def fare(self) -> tuple[np.ndarray, np.ndarray]:
        """Return actual and predicted fares."""
        rng = np.random.default_rng(9)
        predicted = rng.gamma(3, 12, self.n)
        return predicted + rng.normal(0, 2 + 0.15 * predicted), predicted

    @cached_property
    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return fifty actual and predicted classes with long names."""
        rng = np.random.default_rng(10)
        names = np.array([f"Port number {i} on the far side of the sea, $ and {i * 7}" for i in range(50)])
        actual = names[np.minimum(rng.geometric(0.08, self.n) - 1, 49)]
        return actual, np.where(rng.random(self.n) < 0.7, actual, rng.permutation(actual))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Return rows of a predictions table in which v2 follows v1."""
        late = self.frame["boarded"] > pd.Timestamp("2026-02-10", tz="UTC")
        table = {"prediction_timestamp": self.frame["boarded"], "model_version": np.where(late, "v2", "v1")}
        return pd.DataFrame(table | {"prediction_probability": self.score * np.where(late, 0.9, 1)})

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Return a ledger of daily runs of two models, some of which failed."""
        rng, n = np.random.default_rng(11), min(self.n, 120)
        start = pd.Timestamp("2026-01-01T05:00:00Z") + pd.to_timedelta(np.arange(n) // 2, unit="D")
        status = rng.choice(np.array(["succeeded", "failed", "started"]), n, p=[0.9, 0.07, 0.03])
        status[:1] = "succeeded"
        done = status == "succeeded"
        seconds = rng.gamma(20, 4 + 3 * (np.arange(n) % 2))
        inputs = pd.Series(rng.integers(900_000, 1_100_000, n), dtype="Int64").where(done)
        table = {
            "started_timestamp": pd.Series(start).astype("datetime64[us, UTC]"),
            "finished_timestamp": pd.Series(start + pd.to_timedelta(seconds, unit="s")).where(status != "started"),
            "model_name": np.where(np.arange(n) % 2, "titanic-survival", "a-model-with-quite-a-long-name"),
            "status": status,
            "input_rows": inputs,
            "rejected_rows": (inputs * pd.Series(rng.beta(1, 300, n))).round().astype("Int64"),
        }
        return pd.DataFrame(table)

    @cached_property
    def features(self) -> pd.DataFrame:
        """Return what a model may know, without NULL."""
        frame = self.frame[["age", "fare", "pclass", "port"]]
        return frame.fillna({"age": 30.0, "port": "unknown"}).astype({"age": "float64", "pclass": "int64"})

    def fit(self, estimator: Any, y: Any) -> Any:
        """Fit a pipeline on the first half of the rows."""
        from sklearn.compose import make_column_transformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["port"]), remainder=StandardScaler()
        )
        half = max(2, self.n // 2)
        return make_pipeline(encode, estimator).fit(self.features.iloc[:half], np.asarray(y)[:half])

    def evaluation(self, kind: str) -> vis.Evaluation:
        """Evaluate a model of two classes, of three, or of numbers on the other half of the rows."""
        from sklearn.linear_model import LinearRegression, LogisticRegression

        y = {"binary": self.y.to_numpy(int), "regression": self.fare[1] + self.frame["fare"].to_numpy()}.get(kind)
        y = np.digitize(self.score + 0.1 * self.y.to_numpy(float), [0.3, 0.7]) if y is None else y
        model = self.fit(LinearRegression() if kind == "regression" else LogisticRegression(max_iter=1000), y)
        half = max(2, self.n // 2)
        names = {"binary": "survived", "multiclass": "chance", "regression": "fare"}
        return vis.evaluate(model, self.features.iloc[half:], y[half:], target=names[kind])


Draw = Callable[[], Any]


def examples(many: int) -> dict[str, dict[str, Draw]]:
    """Return, for each plot, what to draw by caption; ``many`` is how many rows the large ones have."""
    few, usual, large = Passengers(10, nulls=0.2), Passengers(2_000), Passengers(many)
    empty = Passengers(2_000, nulls=0.97)
    sizes = {"10 rows": few, "2,000 rows": usual, f"{many:,} rows": large}
    one = pd.DataFrame({"survived": [0] * 40, "port": ["Cherbourg", "Queenstown"] * 20, "age": range(40)})

    def each(draw: Callable[[Passengers], Any]) -> dict[str, Draw]:
        return {caption: partial(draw, data) for caption, data in sizes.items()}

    def scored(plot: Any, **options: Any) -> dict[str, Draw]:
        hover = {"on hover": lambda: plot(usual.y, usual.score, interactive=True, **options)}
        two = {"two versions": lambda: _two(plot, usual)} if plot not in (vis.plot_threshold, vis.plot_cost) else {}
        return each(lambda data: plot(data.y, data.score, **options)) | two | hover

    def timed(plot: Any) -> dict[str, Draw]:
        return {
            "8 runs": lambda: plot(Passengers(8).runs),
            "120 runs": lambda: plot(usual.runs),
            "one run": lambda: plot(usual.runs.head(1)),
            "on hover": lambda: plot(usual.runs, interactive=True),
        }

    found: dict[str, dict[str, Draw]] = {
        "overview": {
            "10 rows": lambda: vis.overview(few.frame),
            "2,000 rows": lambda: vis.overview(usual.frame, target="survived"),
            f"{many:,} rows, a numeric target": lambda: vis.overview(large.frame, target="fare"),
        },
        "evaluate": {
            "two classes": lambda: usual.evaluation("binary"),
            "three classes": lambda: usual.evaluation("multiclass"),
            "numbers": lambda: usual.evaluation("regression"),
            "10 rows": lambda: few.evaluation("binary"),
        },
        "plot_missing": each(lambda data: vis.plot_missing(data.frame))
        | {"nearly all NULL": lambda: vis.plot_missing(empty.frame)},
        "plot_distributions": each(lambda data: vis.plot_distributions(data.frame))
        | {"nearly all NULL": lambda: vis.plot_distributions(empty.frame)},
        "plot_target": each(lambda data: vis.plot_target(data.frame, "age", "survived"))
        | {"50 categories, long names": lambda: vis.plot_target(usual.frame, "cabin", "survived")},
        "plot_target_rate": each(lambda data: vis.plot_target_rate(data.frame, "port", "survived"))
        | {"one class": lambda: vis.plot_target_rate(one, "port", "survived")},
        "plot_target_mean": each(lambda data: vis.plot_target_mean(data.frame, "age", "fare"))
        | {"50 categories, long names": lambda: vis.plot_target_mean(usual.frame, "cabin", "fare", top=50)},
        "plot_target_classes": each(lambda data: vis.plot_target_classes(data.frame, "age", "port"))
        | {"50 classes, long names": lambda: vis.plot_target_classes(usual.frame, "port", "cabin")},
        "plot_target_over_time": each(lambda data: vis.plot_target_over_time(data.frame, "boarded", "survived"))
        | {
            "numbers": lambda: vis.plot_target_over_time(usual.frame, "boarded", "fare"),
            "classes, long names": lambda: vis.plot_target_over_time(usual.frame, "boarded", "cabin", top=3),
            "on hover": lambda: vis.plot_target_over_time(usual.frame, "boarded", "port", interactive=True),
        },
        "plot_correlations": each(lambda data: vis.plot_correlations(data.frame))
        | {"40 columns": lambda: vis.plot_correlations(_wide(), top=30, method="spearman")},
        "plot_leakage": each(lambda data: vis.plot_leakage(data.frame, "survived"))
        | {"a numeric target": lambda: vis.plot_leakage(usual.frame, "fare")},
        "plot_drift": {
            "10 rows": lambda: vis.plot_drift(few.frame, _later(few.frame)),
            "2,000 rows": lambda: vis.plot_drift(usual.frame, _later(usual.frame)),
            f"{many:,} rows, no drift": lambda: vis.plot_drift(
                large.frame, large.frame.sample(frac=0.5, random_state=1)
            ),
        },
        "plot_confusion_matrix": each(lambda data: vis.plot_confusion_matrix(data.y, data.score > 0.5))
        | {
            "50 classes, long names": lambda: vis.plot_confusion_matrix(*usual.classes),
            "one class": lambda: vis.plot_confusion_matrix([1] * 9, [1] * 9),
        },
        "plot_roc": scored(vis.plot_roc),
        "plot_precision_recall": scored(vis.plot_precision_recall),
        "plot_gain": scored(vis.plot_gain),
        "plot_lift": scored(vis.plot_lift),
        "plot_threshold": scored(vis.plot_threshold),
        "plot_cost": scored(vis.plot_cost, false_positive=1, false_negative=3, unit="EUR"),
        "plot_calibration": each(lambda data: vis.plot_calibration(data.y, data.score))
        | {"one class": lambda: vis.plot_calibration([0] * 50, np.linspace(0, 0.4, 50))},
        "plot_residuals": each(lambda data: vis.plot_residuals(*data.fare))
        | {"on hover": lambda: vis.plot_residuals(*usual.fare, interactive=True)},
        "plot_predicted_actual": each(lambda data: vis.plot_predicted_actual(*data.fare))
        | {"on hover": lambda: vis.plot_predicted_actual(*usual.fare, interactive=True)},
        "plot_versions": {
            "metrics alone": lambda: vis.plot_versions({"v1": {"accuracy": 0.78, "f1": 0.7}, "v2": {"accuracy": 0.81}}),
            "evaluations": lambda: vis.plot_versions(
                {f"v{i}": Passengers(n).evaluation("binary") for i, n in enumerate((200, 1000, 4000), 1)}
            ),
        },
        "plot_predictions_over_time": each(lambda data: vis.plot_predictions_over_time(data.predictions))
        | {"on hover": lambda: vis.plot_predictions_over_time(usual.predictions, interactive=True)},
        "plot_rejects": timed(vis.plot_rejects),
        "plot_run_durations": timed(vis.plot_run_durations),
    }
    return found | _fitted(usual, many)


def _fitted(usual: Passengers, many: int) -> dict[str, dict[str, Draw]]:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    x, y = usual.features, usual.y.to_numpy(int)
    model = usual.fit(LogisticRegression(max_iter=1000), y)
    known = x[["age", "pclass"]]
    line = LinearRegression().fit(known, usual.frame["fare"])
    long = {f"a feature with a long name, of which there are many, number {i}": 1 / (i + 1) for i in range(50)}
    large = Passengers(many)
    return {
        "plot_feature_importance": {
            "coefficients": lambda: vis.plot_feature_importance(model),
            "50 features, long names": lambda: vis.plot_feature_importance(long),
        },
        "plot_permutation_importance": {
            "a pipeline": lambda: vis.plot_permutation_importance(model, x, y),
            f"{many:,} rows": lambda: vis.plot_permutation_importance(model, large.features, large.y.to_numpy(int)),
        },
        "plot_partial_dependence": {
            "a number": lambda: vis.plot_partial_dependence(model, x, "fare"),
            "whole numbers": lambda: vis.plot_partial_dependence(line, known, "pclass"),
            "categories": lambda: vis.plot_partial_dependence(model, x, "port"),
        },
        "plot_learning_curve": {
            "2,000 rows": lambda: vis.plot_learning_curve(model, x, y),
            "60 rows": lambda: vis.plot_learning_curve(line, known.head(60), usual.frame["fare"].head(60)),
        },
    }


def _two(plot: Any, data: Passengers) -> Any:
    ax = plot(data.y, data.score, name="v1")
    return plot(data.y, data.score + np.random.default_rng(1).normal(0, 0.3, data.n), name="v2", ax=ax)


def _wide() -> pd.DataFrame:
    rng = np.random.default_rng(12)
    base = rng.normal(size=(500, 8))
    return pd.DataFrame({f"measurement number {i}": base[:, i % 8] + rng.normal(0, 1 + i / 8, 500) for i in range(40)})


def _later(frame: pd.DataFrame) -> pd.DataFrame:
    """Let some columns drift: other values, more NULLs, new categories, a column that is gone."""
    rng = np.random.default_rng(13)
    changed = frame.drop(columns="boat").assign(fare=frame["fare"] * 1.6, pclass=frame["pclass"].astype("str"))
    changed["age"] = changed["age"].mask(rng.random(len(frame)) < 0.3)
    return changed.assign(port=changed["port"].replace("Queenstown", "Cobh"))


# Writing ------------------------------------------------------------------------------------------------------------


def write(folder: Path, *, many: int = 200_000, only: str = "") -> Path:
    """Draw the plots whose name contains ``only`` into a folder, and return its ``index.html``."""
    from plotly.offline import get_plotlyjs

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plotly.min.js").write_text(get_plotlyjs())
    chosen = {name: cases for name, cases in examples(many).items() if only in name}
    parts = [_HEAD, "<nav>", *(f'<a href="#{name}">{name}</a>' for name in chosen), "</nav>"]
    for name, cases in chosen.items():
        words = (getdoc(getattr(vis, name)) or "").split("\n\n")[0]
        parts.append(f'<section id="{name}"><h2>{name}</h2><p>{escape(words)}</p><div class="row">')
        for i, (caption, draw) in enumerate(cases.items()):
            started = time.perf_counter()
            body = _drawn(draw(), folder, f"{name}-{i}")
            print(f"{name}: {caption}, {time.perf_counter() - started:.1f} s", file=sys.stderr)  # noqa: T201
            parts.append(f"<figure><figcaption>{escape(caption)}</figcaption>{body}</figure>")
        parts.append("</div></section>")
    index = folder / "index.html"
    index.write_text("\n".join(parts))
    return index


def _drawn(drawn: Any, folder: Path, name: str) -> str:
    """Write what a plot returned, and return the HTML that shows it."""
    import matplotlib.pyplot as plt

    if hasattr(drawn, "write_html"):
        return drawn.to_html(full_html=False, include_plotlyjs=False, default_height="30em", default_width="44em")
    text = (
        f"<p>{escape(str(drawn))}</p>".replace("\n", "<br>")
        if hasattr(drawn, "figure") and callable(drawn.figure)
        else ""
    )
    figure = drawn.figure() if text else np.ravel(drawn)[0].figure
    (folder / f"{name}.png").write_bytes(html.png(figure, 80))
    plt.close("all")
    return f'{text}<img loading="lazy" alt="{name}" src="{name}.png">'


def main(argv: list[str] | None = None) -> None:
    """Write the gallery."""
    import matplotlib as mpl

    parser = argparse.ArgumentParser(prog="python -m mlsys.vis.gallery", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("gallery"))
    parser.add_argument("--rows", type=int, default=200_000, help="how many rows the large examples have")
    parser.add_argument("--only", default="", help="draw only plots with this in their name")
    options = parser.parse_args(argv)
    mpl.use("Agg")
    print(write(options.folder, many=options.rows, only=options.only))  # noqa: T201


if __name__ == "__main__":
    main()
