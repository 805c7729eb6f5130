"""Where the hub and a raw host keep the tiny data, and what a download leaves."""

from pathlib import Path

from biasscope.engine.data.datasets import stereoset

HUB_ORDER = ("anti-stereotype", "stereotype", "unrelated")
"""The order of the labels in the hub's class map."""


def hub_path(split: str) -> str:
    revision = stereoset.ORIGIN.revision
    return f"/datasets/McGill-NLP/stereoset/resolve/{revision}/{split}/validation-00000-of-00001.parquet"


def left(data: Path) -> list[str]:
    """What lies in the data directory."""
    return sorted(str(path.relative_to(data)) for path in data.rglob("*"))
