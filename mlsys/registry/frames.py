"""The registry's rows as a notebook shows them."""

import json
from datetime import datetime
from typing import Any

import pandas as pd


class RegistryFrame(pd.DataFrame):
    """A DataFrame that a notebook shows for people: moments to the second, metrics as text, sizes in kB.

    Only the display differs. What is selected from it is shown the same way.
    """

    @property
    def _constructor(self) -> type["RegistryFrame"]:
        return RegistryFrame

    def _repr_html_(self) -> str | None:
        return self.for_people()._repr_html_()

    def for_people(self) -> pd.DataFrame:
        """Return the frame with its cells as texts."""
        return pd.DataFrame({name: [_cell(name, value) for value in self[name]] for name in self.columns}, self.index)


def _cell(name: str, value: Any) -> Any:
    if not isinstance(value, list | dict) and pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}" + (" UTC" if value.tzinfo else "")
    if name == "metrics":
        return _metrics(value)
    if name in ("file_size", "bytes_processed"):
        return f"{value / 1000:,.1f} kB"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value


def _metrics(value: str) -> str:
    """Return ``accuracy 0.8122, roc_auc 0.85`` for the JSON; some numbers are registered as text."""
    return ", ".join(f"{name} {float(number):.4g}" for name, number in json.loads(value).items())
