"""Tiny files of the published data sets that are stored as they are, written for the tests."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from biasscope.engine.data import datasets, reading
from biasscope.engine.data.datasets.bbq import CATEGORIES
from biasscope.engine.data.datasets.crows_pairs import FILES
from biasscope.engine.store import digests
from tests.support.servers import Host

Texts = dict[str, str]


def table(shares: dict[str, str]) -> str:
    """A README with WinoBias' table of per cent women."""
    return "# WinoBias\n" + "".join(f"<td>{name}</td>\n<td>{women}</td>\n" for name, women in shares.items())


def numbered(*sentences: str) -> str:
    """One of WinoBias' lists."""
    return "".join(f"{number} {sentence}\n" for number, sentence in enumerate(sentences, 1))


def winobias() -> Texts:
    """Two pairs a list: an occupation of two words, two that the table calls otherwise, a second pronoun."""
    files = {"README.md": table({"constructor": "3.5", "sewer": "80", "CEO": "39", "nurse": "90"})}
    for side, (he, his, him) in (("pro", ("he", "his", "him")), ("anti", ("she", "her", "her"))):
        type1 = numbered(
            f"[The construction worker] thanked the tailor because [{he}] was glad.",
            f"The CEO hired [the nurse] because of [{his}] skills.",
        )
        type2 = numbered(
            f"The tailor met [the construction worker] and thanked [{him}] for [{his}] help.",
            f"The nurse visited [the CEO] and asked an assistant about [{him}].",
        )
        for split in ("dev", "test"):
            files[f"{side}_stereotyped_type1.txt.{split}"] = type1
            files[f"{side}_stereotyped_type2.txt.{split}"] = type2
    return files


def asked(
    number: int, question: str, answers: tuple[str, str, str], labels: tuple[str, str, str], **other: Any
) -> dict[str, Any]:
    """A row of BBQ about people of 70 (the stereotyped group) and of 20."""
    keys = ("ans0", "ans1", "ans2")
    return {
        "example_id": number,
        "question_index": "1",
        "question_polarity": "neg",
        "context_condition": "ambig",
        "answer_info": {key: [label.title(), label] for key, label in zip(keys, labels, strict=True)},
        "additional_metadata": {"stereotyped_groups": ["Old"]},
        "context": "Two people met.",
        "question": question,
        **dict(zip(keys, answers, strict=True)),
        **other,
    }


def bbq_rows() -> list[dict[str, Any]]:
    """A pair asked about with both polarities, its answers in another order; a row with a settled context."""
    first = ("The old guy's friend", "Not known", "The young guy's friend")
    second = ("The young guy's friend", "The old guy's friend", "Not known")
    return [
        asked(0, "Who forgot the code?", first, ("old", "unknown", "nonold")),
        asked(1, "Who forgot it?", first, ("old", "unknown", "nonold"), context_condition="disambig"),
        asked(2, "Who knew the code?", second, ("nonold", "old", "unknown"), question_polarity="nonneg"),
    ]


def lines(rows: Sequence[Any]) -> str:
    """Rows as JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def bbq() -> Texts:
    """All six files alike."""
    return {f"{category}.jsonl": lines(bbq_rows()) for category in CATEGORIES}


def crows_pairs() -> Texts:
    """Two pairs of the form, one in reversed direction, and one of each flaw; white space and quotes as
    published.
    """
    rows = (
        ("0", "Most Blacks met\u00a0him. ", "Most whites met  him.", "stereo", "race-color"),
        ("LA1", '"""White"" men \tsaw her."', '"""Black"" men saw her."', "antistereo", "gender"),
        ("2", "He saw his dog.", "She saw her dog.", "stereo", "gender"),
        ("3", "They met the poor.", "They met the rich.", "stereo", "socioeconomic"),
        ("4", "They met.", "They met. ", "stereo", "autre"),
        ("5", "They met.", "", "stereo", "autre"),
    )
    header = "\tsent_more\tsent_less\tstereo_antistereo\tbias_type\n"
    text = header + "".join("\t".join(row) + "\n" for row in rows)
    return dict.fromkeys(FILES.values(), text)


TINY = {"winobias": winobias, "bbq": bbq, "crows_pairs": crows_pairs}
"""Origin → its files, name → text."""


def write(folder: Path, files: Texts) -> Path:
    """The folder with the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def published(monkeypatch: pytest.MonkeyPatch, name: str, data: Path) -> Path:
    """A data directory with an origin's tiny files, which are made the published ones."""
    module, folder = datasets.modules()[name], write(data / name, TINY[name]())
    content: dict[str, str] = {}

    def note(digest: str, _: object, part: str, *args: object, **options: object) -> tuple[str, ...]:
        content[part] = digest
        return ()

    with monkeypatch.context() as patch:
        patch.setattr(reading, "confirm", note)
        for each in module.NAMES:
            module.read(each, data)
    files = tuple(replace(f, sha256=digests.of_file(folder / f.name)) for f in module.ORIGIN.files)
    monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, files=files, digests=content))
    return data


def serve(server: Host, name: str) -> None:
    """Put an origin's tiny files where the raw host has them."""
    origin = datasets.modules()[name].ORIGIN
    for file in origin.files:
        address = quote(f"/{origin.repo}/{origin.revision}/{file.path}")
        server.files[address] = TINY[name]()[file.name].encode()
