"""Files of the original study. Their texts are joined with the downloaded data; their labels, positions and
tokens are never used, unless all of the sentences are the user's own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from biasscope.engine.data import reading
from biasscope.engine.data.datasets import prompts, stereoset, winogender
from biasscope.engine.data.reading import Origin, Problem
from biasscope.engine.data.sentences import divided
from biasscope.engine.data.sheets import Record, Sheet
from biasscope.engine.data.stereoset_records import LABELS
from biasscope.engine.errors import DataError
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

# No names: these are read by the path of the file.
NAMES: tuple[str, ...] = ()
ORIGIN = Origin(
    name="study", credit="the user's file", licence="that of StereoSet or WinoGender", host="file"
)

NO_MATCH = "its sentences stand together in no example"
SHAPE = "a field is missing or is no text"


class Claim(NamedTuple):
    """What the file says about one example."""

    where: str
    hint: str | None
    """An id, to choose among examples with the same sentences."""
    bias_type: str | None
    labels: tuple[tuple[str, str], ...]
    """(sentence, the label the file gives it)."""
    group: str | None = None
    """The term or occupation that it is about."""


class Kind(NamedTuple):
    """One form of file: which data it was made from, how it is cut into claims, what else in it is not
    used.
    """

    origin: str
    claims: Callable[[list[Any]], list[Claim | Problem]]
    unused: str


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The true examples that the file's sentences belong to, in the file's order; `name` is its path.

    Sentences of which none is in the downloaded data are read as the user's own.
    """
    path = Path(name)
    records = reading.read_list(path)
    kind = _recognise(records, path)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", path.stem).strip("_-") or "study"
    truth = (stereoset if kind.origin == "stereoset" else winogender).read(kind.origin, data_dir)
    claims = kind.claims(records)
    joined, problems, notes = _join(kind, claims, truth)
    total = len(joined) + len(problems)
    if not joined and any(problem.reason.startswith(NO_MATCH) for problem in problems):
        return _own(kind, claims, path, skip_invalid=skip_invalid)
    dropped = reading.refuse(problems, path, total, skip=skip_invalid)
    examples = tuple(replace(example, dataset=stem) for example in _unique(joined))
    return replace(
        truth,
        name=stem,
        examples=examples,
        digest=digests.of_examples(examples),
        found=total,
        dropped=dropped,
        notes=(*truth.notes, *notes),
        record={**truth.record, "file": path.name},
    )


def _recognise(records: list[Any], path: Path) -> Kind:
    first = records[0] if records and isinstance(records[0], dict) else {}
    if {"clean", "corrupted"} <= first.keys():
        meta = first["clean"].get("metadata") if isinstance(first["clean"], dict) else None
        origin = "stereoset" if isinstance(meta, dict) and "bias_type" in meta else "winogender"
        return Kind(
            origin,
            lambda rows: [_pair(n, r, origin) for n, r in enumerate(rows, 1)],
            "token ids and positions",
        )
    if {"context", "sentences"} <= first.keys():
        return Kind("stereoset", lambda rows: [_triple(n, r) for n, r in enumerate(rows, 1)], "")
    if {"sentence", "profession", "answer"} <= first.keys():
        return Kind("winogender", _twos, "")
    raise DataError(
        f"{path} is not a file of the original study: a list of StereoSet records, WinoGender sentences or "
        "clean/corrupted pairs is\n"
        "expected; a copy of StereoSet itself is read with `biasscope download stereoset --from FOLDER`"
    )


def _texts(raw: Any, *names: str) -> tuple[str, ...] | None:
    """The fields' texts, or None where one is missing."""
    values = [raw.get(name) for name in names] if isinstance(raw, dict) else []
    texts = tuple(value for value in values if isinstance(value, str))
    return texts if len(texts) == len(names) else None


def _triple(number: int, raw: Any) -> Claim | Problem:
    where = f"record {number}"
    head, three = _texts(raw, "id", "bias_type"), raw.get("sentences") if isinstance(raw, dict) else None
    labels = [_texts(s, "sentence", "gold_label") for s in three] if isinstance(three, list) else []
    if head is None or len(labels) != 3 or None in labels:
        return Problem(SHAPE, where)
    pairs = tuple((pair[0], _label(pair[1])) for pair in labels if pair)
    return Claim(where, head[0], head[1], pairs, _group(raw))


def _pair(number: int, raw: Any, origin: str) -> Claim | Problem:
    where = f"pair {number}"
    sides = [raw.get(side) if isinstance(raw, dict) else None for side in ("clean", "corrupted")]
    sentences = [_texts(side, "sentence") for side in sides]
    fields = ("label", "bias_type") if origin == "stereoset" else ("label", "example_id")
    metas = [_texts(side.get("metadata"), *fields) if isinstance(side, dict) else None for side in sides]
    labels = tuple(
        (text[0], _label(meta[0])) for text, meta in zip(sentences, metas, strict=True) if text and meta
    )
    if len(labels) < 2 or metas[0] is None:
        return Problem(SHAPE, where)
    hint, bias_type = (None, metas[0][1]) if origin == "stereoset" else (metas[0][1], None)
    return Claim(where, hint, bias_type, labels, _group(raw["clean"]["metadata"]))


def _twos(records: list[Any]) -> list[Claim | Problem]:
    """Claims of the male and the female record of one example_id; a repeated sentence starts a new claim."""
    claims: list[Claim | Problem] = []
    open_claims: dict[str, int] = {}
    for number, raw in enumerate(records, 1):
        fields = _texts(raw, "example_id", "sentence", "answer")
        if fields is None:
            claims.append(Problem(SHAPE, f"record {number}"))
            continue
        name, sentence, answer = fields
        claim = claims[open_claims[name]] if name in open_claims else None
        if isinstance(claim, Claim) and sentence not in dict(claim.labels):
            claims[open_claims[name]] = claim._replace(labels=(*claim.labels, (sentence, answer)))
        else:
            open_claims[name] = len(claims)
            claims.append(Claim(f"record {number}", name, None, ((sentence, answer),), _group(raw)))
    return claims


def _group(raw: dict[str, Any]) -> str | None:
    """What a record says that it is about."""
    return next(iter(_texts(raw, "target") or _texts(raw, "profession") or ()), None)


def _label(label: str) -> str:
    return label.replace("antistereo", "anti-stereo")


def _true_labels(example: Example) -> dict[str, str]:
    """Sentence → true label of an example."""
    if example.sentences:
        return dict(zip(example.sentences, LABELS, strict=True))
    return {
        example.prompt + pronoun + example.suffix: gender
        for pronoun, gender in ((example.stereo, "male"), (example.anti, "female"))
    }


def _own(kind: Kind, claims: list[Claim | Problem], path: Path, *, skip_invalid: bool) -> Dataset:
    """The file's sentences as prompts of the user's own, with the labels that it gives them."""
    records, problems = [], []
    for claim in claims:
        if isinstance(claim, Problem):
            problems.append(claim)
            continue
        cells = divided({label: sentence for sentence, label in claim.labels})
        if isinstance(cells, str):
            problems.append(Problem(cells, claim.where))
            continue
        cells |= {"group": claim.group or "", "bias_type": claim.bias_type or "gender"}
        records.append(Record(f"{path}: {claim.where}", {k: v for k, v in cells.items() if v}))
    dropped = reading.refuse(problems, path, len(claims), skip=skip_invalid)
    columns = {name: str(path) for record in records for name in record.cells}
    data = prompts.of_sheet(Sheet(str(path), columns, records), path.stem, skip_invalid=skip_invalid)
    note = f"none of its {len(claims)} records is in {kind.origin}: read as prompts of your own, with the "
    sides = data.sides if kind.origin == "stereoset" else ("the male word", "the female word")
    return replace(
        data,
        found=len(claims),
        dropped=data.dropped + dropped,
        notes=(f"{note}file's labels", *data.notes),
        sides=sides,
        record={**prompts.ORIGIN.record(), "file": path.name},
    )


def _join(
    kind: Kind, claims: list[Claim | Problem], truth: Dataset
) -> tuple[list[Example], list[Problem], tuple[str, ...]]:
    known = [_true_labels(example) for example in truth.examples]
    holders = _holders(known)
    joined: list[Example] = []
    problems: list[Problem] = []
    used: set[int] = set()
    total = wrong = single = 0
    for claim in claims:
        if isinstance(claim, Problem):
            problems.append(claim)
            continue
        if len(dict(claim.labels)) < len(claim.labels):
            problems.append(Problem("the same sentence twice", claim.where))
            continue
        fits = set.intersection(*(holders.get(sentence, set()) for sentence, _ in claim.labels))
        fits = {i for i in fits if claim.bias_type in (None, truth.examples[i].bias_type)}
        if not fits:
            problems.append(
                Problem(f"{NO_MATCH} of {kind.origin}", f"{claim.where} ({claim.labels[0][0]!r})")
            )
            continue
        # The example with the file's own id, else one that no earlier record took.
        chosen = min(fits, key=lambda i, hint=claim.hint: (truth.examples[i].id != hint, i in used, i))  # type: ignore[misc]
        used.add(chosen)
        joined.append(truth.examples[chosen])
        total += len(claim.labels)
        wrong += sum(known[chosen][sentence] != label for sentence, label in claim.labels)
        single += len(claim.labels) < 2
    return joined, problems, _notes(kind, total, wrong, single)


def _holders(known: list[dict[str, str]]) -> dict[str, set[int]]:
    holders: dict[str, set[int]] = defaultdict(set)
    for index, sentences in enumerate(known):
        for sentence in sentences:
            holders[sentence].add(index)
    return holders


def _notes(kind: Kind, total: int, wrong: int, single: int) -> tuple[str, ...]:
    title = "StereoSet" if kind.origin == "stereoset" else "WinoGender"
    notes = (
        [f"{wrong} of {total} labels were wrong and were taken from {title}"]
        if wrong
        else [f"all {total} labels agree with {title}"]
    )
    if kind.unused:
        notes.append(f"the file's {kind.unused} were not used")
    if single:
        notes.append(f"{single} examples had only one of their two sentences in the file")
    return tuple(notes)


def _unique(examples: Iterable[Example]) -> list[Example]:
    """The examples with ids made unique: the second of an id gets `#2`, and so on."""
    seen: Counter[str] = Counter()
    result = []
    for example in examples:
        seen[example.id] += 1
        result.append(
            replace(example, id=f"{example.id}#{seen[example.id]}") if seen[example.id] > 1 else example
        )
    return result
