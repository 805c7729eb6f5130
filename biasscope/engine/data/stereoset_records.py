"""StereoSet's records: the containers they come in, and their triples checked as they are read."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from biasscope.engine.data import reading
from biasscope.engine.data.reading import Problem
from biasscope.engine.errors import DataError

SPLITS = ("intrasentence", "intersentence")
# Class numbers on the hub, for Parquet that lost the names. At least two public projects shipped another
# order.
CLASS_ORDER = ("anti-stereotype", "stereotype", "unrelated")
# Where a split may lie in a folder, in order of preference; each may also lie in the folder's own
# `stereoset/`.
PLACES = (
    "stereoset_{split}.json",
    "{split}.json",
    "dev.json",
    "{split}/validation-00000-of-00001.parquet",
    "{split}.parquet",
)
BIAS_TYPES = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
# Sentences whose label no two honest readers would disagree on: they refuse an exchanged map, whatever the
# digest says.
KNOWN = {
    "The chess player was fox.": "unrelated",
    "The chess player was asian.": "stereotype",
    "Cats have sharp claws.": "unrelated",
}


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
        raise DataError(
            f'{path}: the official container {{"version": ..., "data": {{...}}}} is expected, '
            f"found {reading.kind(value)}"
        )
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
    """The words behind the class numbers of `gold_label`, from the file itself, else in the documented
    order.
    """
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
        sentences = [
            dict(zip(sentences, values, strict=True)) for values in zip(*sentences.values(), strict=True)
        ]
    return row | {
        "sentences": [_worded(s, names) for s in sentences] if isinstance(sentences, list) else sentences
    }


def _worded(sentence: Any, names: Sequence[str]) -> Any:
    label = sentence.get("gold_label") if isinstance(sentence, dict) else None
    return (
        sentence | {"gold_label": names[label]}
        if isinstance(label, int) and 0 <= label < len(names)
        else sentence
    )


class Sentence(NamedTuple):
    """One of the three sentences of a record."""

    id: str
    text: str
    label: str


class Record(NamedTuple):
    """One checked StereoSet record: three sentences, one of each label, in file order."""

    id: str
    target: str
    bias_type: str
    context: str
    sentences: tuple[Sentence, ...]

    def labelled(self, label: str) -> Sentence:
        """The sentence with that label."""
        return next(s for s in self.sentences if s.label == label)

    def content(self) -> list[Any]:
        """What the content digest is computed from."""
        return [
            self.id,
            self.target,
            self.bias_type,
            self.context,
            sorted([s.id, s.text, s.label] for s in self.sentences),
        ]

    def as_json(self) -> dict[str, Any]:
        """The record in the list form that is stored in the data directory."""
        sentences = [{"id": s.id, "sentence": s.text, "gold_label": s.label} for s in self.sentences]
        return {
            "id": self.id,
            "target": self.target,
            "bias_type": self.bias_type,
            "context": self.context,
            "sentences": sentences,
        }


def check(records: Sequence[Any], split: str, where: Path) -> tuple[list[Record], list[Problem]]:
    """The records that can be used and what is wrong with the others. A wrong label map is always a
    DataError.
    """
    good: list[Record] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, raw in enumerate(records, 1):
        parsed = _parse(raw, split, seen)
        if isinstance(parsed, str):
            name = raw.get("id") if isinstance(raw, dict) else None
            problems.append(
                Problem(parsed, f"record {number}" + (f" (id {name})" if isinstance(name, str) else ""))
            )
        else:
            seen.update((parsed.id, *(s.id for s in parsed.sentences)))
            good.append(parsed)
    _refuse_exchanged(good, where)
    return good, problems


def _refuse_exchanged(records: Sequence[Record], where: Path) -> None:
    for sentence in (s for r in records for s in r.sentences):
        if KNOWN.get(sentence.text, sentence.label) != sentence.label:
            raise DataError(
                f"{where}: the labels are exchanged: '{sentence.text}' is labelled {sentence.label} and is "
                f"{KNOWN[sentence.text]};\n"
                "class numbers must be 0 anti-stereotype, 1 stereotype, 2 unrelated; take another copy of "
                "StereoSet"
            )


def _parse(raw: Any, split: str, seen: set[str]) -> Record | str:
    """The checked record, or the reason why it cannot be used."""
    if not isinstance(raw, dict):
        return "not an object"
    for name in ("id", "target", "bias_type", "context"):
        if not isinstance(raw.get(name), str) or not raw[name]:
            return f"missing field '{name}'"
    if raw["bias_type"] not in BIAS_TYPES:
        return "bias type not in the four"
    if raw["id"] in seen:
        return "duplicate id"
    sentences = _sentences(raw.get("sentences"), seen)
    if isinstance(sentences, str):
        return sentences
    record = Record(raw["id"], raw["target"], raw["bias_type"], raw["context"], sentences)
    if split == "intrasentence" and not all(fillers(record.context, s.text) for s in sentences):
        return "a sentence does not match its context"
    return record


def _sentences(raw: Any, seen: set[str]) -> tuple[Sentence, ...] | str:
    if not isinstance(raw, list):
        return "missing field 'sentences'"
    for item in raw:
        for name in ("id", "sentence", "gold_label"):
            if not isinstance(item, dict) or not isinstance(item.get(name), str) or not item[name]:
                return f"missing field '{name}' of a sentence"
    # Some copies write `antistereotype`.
    sentences = tuple(
        Sentence(s["id"], s["sentence"], s["gold_label"].replace("antistereo", "anti-stereo")) for s in raw
    )
    if any(s.label not in LABELS for s in sentences):
        return "label not in the three"
    if sorted(s.label for s in sentences) != sorted(LABELS):
        return "not one sentence of each label"
    if len({s.id for s in sentences} - seen) < 3:
        return "duplicate sentence id"
    return sentences


def fillers(context: str, sentence: str) -> tuple[str, ...]:
    """What stands for each BLANK of the context in the sentence, in the sentence's own case; empty where they
    do not match.

    Sentences were lower-cased and contexts were not, so everything around the fillers is compared without
    case.
    """
    parts = context.split("BLANK")
    if not 2 <= len(parts) <= 3:
        return ()
    head, tail = parts[0], parts[-1]
    middle = sentence[len(head) : len(sentence) - len(tail)]
    if (
        not _same(sentence[: len(head)], head)
        or not _same(sentence[len(sentence) - len(tail) :], tail)
        or not middle.strip()
    ):
        return ()
    if len(parts) == 2:
        return (middle,) if middle == middle.strip() and len(sentence) > len(head) + len(tail) else ()
    filled = re.split(re.escape(parts[1]), middle, maxsplit=1, flags=re.IGNORECASE)
    return tuple(filled) if len(filled) == 2 and all(filled) else ()


def _same(first: str, second: str) -> bool:
    return first.lower() == second.lower()
