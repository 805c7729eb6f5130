"""StereoSet's records: one sentence of each label, strictly checked whatever container they came in."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from biasscope.engine.errors import DataError
from biasscope.engine.reading import Problem

BIAS_TYPES = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
# Sentences whose label no two honest readers would disagree on: they refuse an exchanged map, whatever the digest says.
KNOWN = {
    "The chess player was fox.": "unrelated",
    "The chess player was asian.": "stereotype",
    "Cats have sharp claws.": "unrelated",
}


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
        return [self.id, self.target, self.bias_type, self.context, sorted([s.id, s.text, s.label] for s in self.sentences)]

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
    """The records that can be used and what is wrong with the others. A wrong label map is always a DataError."""
    good: list[Record] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, raw in enumerate(records, 1):
        parsed = _parse(raw, split, seen)
        if isinstance(parsed, str):
            name = raw.get("id") if isinstance(raw, dict) else None
            problems.append(Problem(parsed, f"record {number}" + (f" (id {name})" if isinstance(name, str) else "")))
        else:
            seen.update((parsed.id, *(s.id for s in parsed.sentences)))
            good.append(parsed)
    _refuse_exchanged(good, where)
    return good, problems


def _refuse_exchanged(records: Sequence[Record], where: Path) -> None:
    for sentence in (s for r in records for s in r.sentences):
        if KNOWN.get(sentence.text, sentence.label) != sentence.label:
            raise DataError(
                f"{where}: the labels are exchanged: '{sentence.text}' is labelled {sentence.label} and is {KNOWN[sentence.text]};\n"
                "class numbers must be 0 anti-stereotype, 1 stereotype, 2 unrelated; take another copy of StereoSet"
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
    found = tuple(Sentence(s["id"], s["sentence"], s["gold_label"].replace("antistereo", "anti-stereo")) for s in raw)
    if any(s.label not in LABELS for s in found):
        return "label not in the three"
    if sorted(s.label for s in found) != sorted(LABELS):
        return "not one sentence of each label"
    if len({s.id for s in found} - seen) < 3:
        return "duplicate sentence id"
    return found


def fillers(context: str, sentence: str) -> tuple[str, ...]:
    """What stands for each BLANK of the context in the sentence, in the sentence's own case; empty where they do not match.

    Sentences were lower-cased and contexts were not, so everything around the fillers is compared without case.
    """
    parts = context.split("BLANK")
    if not 2 <= len(parts) <= 3:
        return ()
    head, tail = parts[0], parts[-1]
    middle = sentence[len(head) : len(sentence) - len(tail)]
    if not _same(sentence[: len(head)], head) or not _same(sentence[len(sentence) - len(tail) :], tail) or not middle.strip():
        return ()
    if len(parts) == 2:
        return (middle,) if middle == middle.strip() and len(sentence) > len(head) + len(tail) else ()
    found = re.split(re.escape(parts[1]), middle, maxsplit=1, flags=re.IGNORECASE)
    return tuple(found) if len(found) == 2 and all(found) else ()


def _same(one: str, other: str) -> bool:
    return one.lower() == other.lower()
