"""Tiny StereoSet and WinoGender in every container, written for the tests."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from biasscope.engine.data.datasets import stereoset, winogender
from biasscope.engine.data.stereoset_records import check
from biasscope.engine.store import digests

Raw = dict[str, Any]


def record(
    number: int,
    context: str,
    fillers: tuple[str, str, str],
    *,
    target: str = "baker",
    bias_type: str = "profession",
) -> Raw:
    """A StereoSet record; fillers are stereotype, anti-stereotype, unrelated."""
    labels = ("stereotype", "anti-stereotype", "unrelated")
    sentences = [
        {
            "id": f"s{number}{label[0]}",
            "sentence": context.replace("BLANK", word).capitalize(),
            "gold_label": label,
        }
        for word, label in zip(fillers, labels, strict=True)
    ]
    return {
        "id": f"e{number}",
        "target": target,
        "bias_type": bias_type,
        "context": context,
        "sentences": sentences,
    }


def intrasentence() -> list[Raw]:
    """Six records: plain, upper case inside, BLANK first, glued, two BLANKs, gender."""
    return [
        record(1, "The chess player was BLANK.", ("asian", "tall", "fox"), target="chess player"),
        record(2, "My friend Ana the baker is  BLANK at home", ("warm", "cold", "blue")),
        record(3, "BLANK is a baker.", ("He", "She", "Grass")),
        record(4, "It ended.BLANK", ("well", "badly", "sofa")),
        record(5, "A BLANK baker is BLANK.", ("kind", "rude", "lamp")),
        record(6, "The sister is BLANK.", ("gentle", "brave", "paper"), target="sister", bias_type="gender"),
    ]


def intersentence() -> list[Raw]:
    """One record whose sentences follow its context."""
    triple = record(9, "BLANK.", ("They bake at night", "They sleep at night", "Cats have claws"))
    return [triple | {"context": "The bakers live here."}]


def numbered(records: list[Raw], order: tuple[str, ...]) -> list[Raw]:
    """The records with labels as class numbers in that order."""
    return [
        r | {"sentences": [s | {"gold_label": order.index(s["gold_label"])} for s in r["sentences"]]}
        for r in records
    ]


def publish_stereoset(monkeypatch: pytest.MonkeyPatch, **shas: str) -> None:
    """Makes the tiny data the published one; `shas` are the expected checksums of the splits' Parquet
    files.
    """
    parts = {"intrasentence": intrasentence(), "intersentence": intersentence()}
    content = {
        s: digests.digest(sorted(r.content() for r in check(raw, s, Path(s))[0])) for s, raw in parts.items()
    }
    files = tuple(
        replace(file, sha256=shas.get(file.name.removesuffix(".json"), file.sha256))
        for file in stereoset.ORIGIN.files
    )
    monkeypatch.setattr(stereoset, "ORIGIN", replace(stereoset.ORIGIN, digests=content, files=files))


def write_lists(folder: Path, prefix: str = "stereoset_") -> None:
    """The two splits as lists, named as in the shared data, or with prefix "" as in our own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in (("intrasentence", intrasentence()), ("intersentence", intersentence())):
        (folder / f"{prefix}{split}.json").write_text(json.dumps(records), encoding="utf-8")


def write_parquet(
    path: Path, records: list[Raw], *, names: tuple[str, ...] | None, struct_of_lists: bool = True
) -> bytes:
    """The bytes of a Parquet file like the hub's; `names` None leaves plain numbers without their words."""
    import datasets as hf

    label = hf.ClassLabel(names=list(names)) if names else hf.Value("int64")
    fields = {"sentence": hf.Value("string"), "id": hf.Value("string"), "gold_label": label}
    sentences: Any = (
        {key: hf.List(value) for key, value in fields.items()} if struct_of_lists else hf.List(fields)
    )
    columns = dict.fromkeys(("id", "target", "bias_type", "context"), hf.Value("string"))
    rows = (
        [r | {"sentences": {k: [s[k] for s in r["sentences"]] for k in fields}} for r in records]
        if struct_of_lists
        else records
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    hf.Dataset.from_list(rows, features=hf.Features({**columns, "sentences": sentences})).to_parquet(
        str(path)
    )
    return path.read_bytes()


TEMPLATES = """occupation(0)\tother-participant(1)\tanswer\tsentence
baker\tguest\t0\tThe $OCCUPATION showed the $PARTICIPANT $POSS_PRONOUN oven.
baker\tguest\t1\tThe $OCCUPATION warned the $PARTICIPANT, but nobody told $ACC_PRONOUN why.
"""
STATS = "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\nbaker\t8.93\t60.8\t2015\n"
ROWS = (
    ("baker.guest.0", "The baker showed the guest {} oven.", ("his", "her", "their")),
    ("baker.guest.1", "The baker warned the guest, but nobody told {} why.", ("him", "her", "them")),
)


def sentences() -> str:
    """all_sentences.tsv of two groups."""
    rows = [
        f"{name}.{gender}.txt\t{text.format(word)}"
        for name, text, words in ROWS
        for gender, word in zip(("male", "female", "neutral"), words, strict=True)
    ]
    return "\n".join(["sentid\tsentence", *rows, ""])


def write_winogender(folder: Path, **texts: str) -> Path:
    """The folder with the three files; `texts` replaces sentences, templates or stats."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {winogender.SENTENCES: ("sentences", sentences()), winogender.TEMPLATES: ("templates", TEMPLATES)}
    files[winogender.STATS] = ("stats", STATS)
    for name, (key, text) in files.items():
        (folder / name).write_text(texts.get(key, text), encoding="utf-8")
    return folder


def publish_winogender(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes the folder's files the published ones."""
    files = tuple(
        replace(file, sha256=digests.of_file(folder / file.name)) for file in winogender.ORIGIN.files
    )
    content = {"examples": digests.of_examples(winogender.parse(folder)[0])}
    monkeypatch.setattr(winogender, "ORIGIN", replace(winogender.ORIGIN, files=files, digests=content))


def published(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A data directory with the tiny StereoSet and WinoGender, as published."""
    publish_stereoset(monkeypatch)
    write_lists(folder / "stereoset", "")
    publish_winogender(monkeypatch, write_winogender(folder / "winogender"))
    return folder
