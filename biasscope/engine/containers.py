"""The containers StereoSet comes in: lists, the official dev.json, the hub's Parquet."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from biasscope.engine import reading
from biasscope.engine.errors import DataError

SPLITS = ("intrasentence", "intersentence")
# Class numbers on the hub, for Parquet that lost the names. At least two public projects shipped another order.
CLASS_ORDER = ("anti-stereotype", "stereotype", "unrelated")
# Where a split may lie in a folder, in order of preference; each may also lie in the folder's own `stereoset/`.
PLACES = (
    "stereoset_{split}.json",
    "{split}.json",
    "dev.json",
    "{split}/validation-00000-of-00001.parquet",
    "{split}.parquet",
)


def find(folder: Path, split: str) -> Path | None:
    """The file that holds the split, or None."""
    places = [base / place.format(split=split) for base in (folder, folder / "stereoset") for place in PLACES]
    return next((p for p in places if p.is_file() and (p.name != "dev.json" or split in _official(p))), None)


def read(path: Path, split: str) -> list[Any]:
    """The split's records as the file gives them, unchecked, with labels as words."""
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.name != "dev.json":
        return reading.read_list(path)
    records = _official(path).get(split)
    if not isinstance(records, list):
        raise DataError(f'{path}: the official container {{"data": {{"{split}": [...]}}}} is expected')
    return records


def _official(path: Path) -> dict[str, Any]:
    value = reading.read_json(path)
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        raise DataError(f'{path}: the official container {{"version": ..., "data": {{...}}}} is expected, found {reading.kind(value)}')
    return data


def _parquet(path: Path) -> list[Any]:
    import datasets as hf
    import pyarrow

    bars = hf.utils.logging.is_progress_bar_enabled()
    hf.utils.logging.disable_progress_bar()
    try:
        with TemporaryDirectory(prefix="biasscope-") as cache:
            table: Any = hf.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
            names = label_names(table.features)
            return [_as_words(row, names) for row in table]
    except (OSError, ValueError, TypeError, pyarrow.ArrowException, hf.exceptions.DatasetsError) as error:
        raise DataError(f"{path}: Parquet that cannot be read: {error}") from error
    finally:
        if bars:
            hf.utils.logging.enable_progress_bar()


def label_names(features: Any) -> tuple[str, ...]:
    """The words behind the class numbers of `gold_label`, from the file itself, else in the documented order."""
    if hasattr(features, "feature"):
        # A list of something: look into it, on either side of the field's name.
        return label_names(features.feature)
    if isinstance(features, dict):
        return label_names(features.get("gold_label", features.get("sentences")))
    return tuple(getattr(features, "names", None) or CLASS_ORDER)


def _as_words(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    sentences = row.get("sentences")
    # A sequence of structs is a struct of lists in some files and a list of structs in others.
    if isinstance(sentences, dict):
        sentences = [dict(zip(sentences, values, strict=True)) for values in zip(*sentences.values(), strict=True)]
    return row | {"sentences": [_worded(s, names) for s in sentences] if isinstance(sentences, list) else sentences}


def _worded(sentence: Any, names: Sequence[str]) -> Any:
    label = sentence.get("gold_label") if isinstance(sentence, dict) else None
    return sentence | {"gold_label": names[label]} if isinstance(label, int) and 0 <= label < len(names) else sentence
