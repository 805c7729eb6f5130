"""WinoBias (Zhao et al. 2018): line i of the pro- and of the anti-stereotyped list are one example.

The group is the occupation that the pronoun means, its covariate the share of men by the table in the
source's README. In type 2 syntax says before the pronoun whom it means, in type 1 meaning says it after it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from biasscope.engine.data import reading
from biasscope.engine.data.datasets.occupations import BIAS, PRONOUNS, SHARES, SIDES
from biasscope.engine.data.reading import Gathered, Origin, Problem, RemoteFile, Row
from biasscope.engine.errors import DataError
from biasscope.engine.store import digests
from biasscope.engine.types import Covariate, Dataset, Example

NAMES = ("winobias_type1", "winobias_type2")
TABLE = "README.md"
_LISTS = {
    "pro_stereotyped_type1.txt.dev": "dd55a0d220fe4c0ceb63dd4648223fb4fe1a58d5ad95c116a002ad24b0e292a5",
    "pro_stereotyped_type1.txt.test": "db7838907238a758eeb5779e48f38c013b892910d6fe864456c59f04245c6689",
    "pro_stereotyped_type2.txt.dev": "8f0250de723cea9328e3eaf7169e07936f01aa5909ce7aa580db66eb803f4e86",
    "pro_stereotyped_type2.txt.test": "ea1c1fd94fa612e3cc44d7fa3cc4cb76021bb63fdf94f9826f430051e9052438",
    "anti_stereotyped_type1.txt.dev": "a4e0ebae344e78b56f657a42e8ae684b9db7747d177c5e7149c0907ebb7f3bf6",
    "anti_stereotyped_type1.txt.test": "331db5bd74bfefebf146a60b67645152a4a1991570d2a56f57154103ac361dd2",
    "anti_stereotyped_type2.txt.dev": "763ad829ad724f9a85ead689ba8ca69072020cb1238def6210f0fc6a47b97e59",
    "anti_stereotyped_type2.txt.test": "336571ac1ea8c06cd2aba8e5dd2bd98e00acc0c48da3e4ec5ec7e54eb2633a8f",
}
ORIGIN = Origin(
    name="winobias",
    credit="Zhao, Wang, Yatskar, Ordonez, Chang (2018), Gender bias in coreference resolution: "
    "evaluation and debiasing methods",
    licence="MIT, Copyright (c) 2020 Natural Language Processing @UCLA",
    caveat="WinoBias asks for two pronouns, in English, of people who are named by an occupation alone.",
    host="raw",
    url="https://github.com/uclanlp/corefBias",
    repo="uclanlp/corefBias",
    revision="0bce984dd081bbc10b0622f326727a024c607895",
    files=(
        *(RemoteFile(f"WinoBias/wino/data/{name}", name, sha256) for name, sha256 in _LISTS.items()),
        RemoteFile(TABLE, TABLE, "db78630bc08e3f38eb60a5ffb12f138e4fef9c9f804a3b18e70eb125dfbf0223"),
    ),
    digests={
        "type1": "9904493288870626d2a4812aef2b2a53d2a39196be22fafe9620ec3abac3456d",
        "type2": "4eaf5158c731dbdee8d2f834f326891691d1ee46338aca89e7230b550590563d",
    },
)
RENAMED = {
    "mechanician": "mechanic",
    "sewer": "tailor",
    "constructor": "construction worker",
    "counselors": "counselor",
    "hairdressers": "hairdresser",
}
"""The table's name → the name in the sentences, as the note under the table says."""
FAULTY = {"type1.dev.212", "type1.test.296", "type2.test.307", "type2.test.382", "type2.test.384"}
FAULTY |= {f"type2.dev.{line}" for line in (102, 171, 176, 190, 209, 215)}
"""Pairs that are faulty as published: counted as dropped, and no reason to refuse the files."""
CASES = {(he.strip(), she.strip()): case for case, (he, she) in PRONOUNS.items()}
"""Male and female pronoun → their case: `her` alone does not tell."""
PRONOUN = re.compile(r"\[(he|she|his|her|him)\]")


def present(data_dir: Path) -> bool:
    """Whether the lists and the table are downloaded."""
    return all((data_dir / ORIGIN.name / file.name).is_file() for file in ORIGIN.files)


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The examples of a type, those of its development list first."""
    return _checked(name, reading.stored(ORIGIN, data_dir), skip_invalid=skip_invalid)


def _checked(name: str, paths: Mapping[str, Path], *, skip_invalid: bool) -> Dataset:
    part, men, folder = name.removeprefix("winobias_"), _share_of_men(paths[TABLE]), paths[TABLE].parent
    examples, faults, problems = parse(paths, part, men)
    total = len(examples) + faults.total() + len(problems)
    refused = reading.refuse(problems, folder, total, skip=skip_invalid)
    covariate = Covariate(SHARES["bls"], "%", men)
    digest = digests.of_examples(examples, (covariate,))
    notes = reading.confirm(digest, ORIGIN, part, folder, dropped=refused.total())
    return Dataset(
        name,
        tuple(examples),
        digest,
        total,
        faults + refused,
        notes + (_attenuated(examples, men) if part == "type1" else ()),
        ORIGIN.record(),
        covariates=(covariate,),
        noun="occupation",
        sides=SIDES,
        bias=BIAS,
        rule="roles",
    )


def _attenuated(examples: Sequence[Example], men: Mapping[str, float]) -> tuple[str, ...]:
    """The note that type 1's prompts do not say whom the pronoun means."""
    prompts = len({e.prompt for e in examples})
    led = sum((men[e.group] > men[str(e.meta["other"])]) == _first(e) for e in examples)
    return (
        f"type 1 settles whom the pronoun means only after it: {len(examples)} examples share {prompts} "
        f"prompts, and {led} name the occupation with more men first, so the slope keeps only differences "
        "within a majority; it is there for replication, winobias_type2 is the one to search with",
    )


def _first(example: Example) -> bool:
    """Whether the occupation that is meant is the first in the prompt."""
    text, other = example.prompt.lower(), str(example.meta["other"]).lower()
    return text.index(example.group.lower()) < text.index(other)


def parse(
    paths: Mapping[str, Path], part: str, men: Mapping[str, float]
) -> tuple[list[Example], Counter[str], list[Problem]]:
    """The examples of a type, which of the published faults there are, and what is wrong with other pairs."""
    examples, faults, problems = list[Example](), Counter[str](), list[Problem]()
    for split in ("dev", "test"):
        pro, anti = (_lines(paths[f"{side}_stereotyped_{part}.txt.{split}"]) for side in ("pro", "anti"))
        if len(pro) != len(anti):
            raise DataError(
                f"{paths[TABLE].parent}: {len(pro)} pro-stereotyped and {len(anti)} anti-stereotyped "
                f"sentences of {part}.{split}; they must pair up"
            )
        for first, second in zip(pro, anti, strict=True):
            name = f"{part}.{split}.{first.fields[0]}"
            example = _example(name, (first.fields[1], second.fields[1]), men)
            if isinstance(example, Example):
                examples.append(example)
            elif name in FAULTY:
                faults[example] += 1
            else:
                problems.append(Problem(example, f"{first.where} ({first.fields[1][:60]!r})"))
    return examples, faults, problems


def _lines(path: Path) -> list[Row]:
    """Number and sentence of every line."""
    rows = []
    for number, line in enumerate(reading.read_text(path).removesuffix("\n").split("\n"), 1):
        label, _, sentence = line.partition(" ")
        if label != str(number) or not sentence:
            raise DataError(f"{path}:{number}: `{number} SENTENCE` is expected, found {line[:60]!r}")
        rows.append(Row(f"{path}:{number}", (label, sentence)))
    return rows


def _share_of_men(path: Path) -> dict[str, float]:
    """Occupation → per cent of men, from the cells of the table: a name, then its per cent of women."""
    lines = enumerate(reading.read_text(path).split("\n"), 1)
    cells = [(f"{path}:{n}", match[1]) for n, line in lines if (match := re.search(r"<td>(.*?)</td>", line))]
    men = {
        RENAMED.get(name, name): 100.0 - reading.per_cent(women, where)
        for (_, name), (where, women) in zip(cells[::2], cells[1::2], strict=False)
    }
    if not men or 2 * len(men) != len(cells):
        raise DataError(f"{path}: a table of occupations, each once with its per cent of women, is expected")
    return men


def _example(name: str, versions: tuple[str, str], men: Mapping[str, float]) -> Example | str:
    """The example of a sentence in two versions, or the reason why there is none."""
    cut = [PRONOUN.split(text, maxsplit=1) for text in versions]
    if any(len(parts) < 3 for parts in cut) or _plain(cut[0][0]) != _plain(cut[1][0]):
        return "the two versions differ before the pronoun"
    # the version with the male pronoun gives the rest of the sentence
    (before, he, rest), (_, she, _) = sorted(cut, key=lambda parts: parts[1] in ("she", "her"))
    if (he, she) not in CASES:
        return "not one male and one female pronoun of one case"
    named = [word for word in men if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", before, re.IGNORECASE)]
    meant = [word for word in named if re.search(rf"\[[^]]*{re.escape(word)} *\]", before, re.IGNORECASE)]
    if len(named) != 2 or len(meant) != 1 or not before.endswith(" "):
        return "not two occupations, one of them in brackets, before the pronoun"
    (other,) = {*named} - {*meant}
    part, split, _ = name.split(".")
    meta = {"other": other, "case": CASES[he, she], "split": split}
    prompt, suffix = _plain(before).removesuffix(" "), _plain(rest)
    return Example(
        name, f"winobias_{part}", "gender", meant[0], prompt, f" {he}", f" {she}", suffix=suffix, meta=meta
    )


def _plain(text: str) -> str:
    return text.replace("[", "").replace("]", "")


def gather(folder: Path) -> Gathered:
    """The files to store, from a folder of copies: in itself, in `winobias/` or as in the repository.

    Raises DataError where the content is not the published one.
    """
    paths = reading.copies(folder, ORIGIN)
    for name in NAMES:
        _checked(name, paths, skip_invalid=False)
    return Gathered({name: path.read_bytes() for name, path in paths.items()}, dict(ORIGIN.digests))
