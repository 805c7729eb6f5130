"""WinoGender (Rudinger et al. 2018): one example per sentid group; the template gives the pronoun's case."""

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from biasscope.engine.data import reading
from biasscope.engine.data.datasets import occupations
from biasscope.engine.data.reading import Gathered, Origin, Problem, RemoteFile
from biasscope.engine.errors import DataError
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

NAMES = ("winogender",)
SENTENCES, TEMPLATES, STATS = "all_sentences.tsv", "templates.tsv", "occupations-stats.tsv"
ORIGIN = Origin(
    name="winogender",
    credit="Rudinger, Naradowsky, Leonard, Van Durme (2018), Gender bias in coreference resolution",
    licence="MIT, Copyright (c) 2018 Rachel Rudinger",
    caveat="WinoGender asks for two pronouns, in English, of people who are named by an occupation alone.",
    host="raw",
    url="https://github.com/rudinger/winogender-schemas",
    repo="rudinger/winogender-schemas",
    revision="1c7f8b481ad8a234b41e9f76a424d6e856e13f7f",
    files=(
        RemoteFile(
            "data/all_sentences.tsv",
            SENTENCES,
            "bd69da16bf228cb8df63fd0843aec2d8b5c36a7f21bf8c7b168bcc83932556c8",
        ),
        RemoteFile(
            "data/templates.tsv",
            TEMPLATES,
            "496f2e2dc77296bcebcdd8865a8dc5715ce22b772de9abb5f531d5b3114c48a0",
        ),
        RemoteFile(
            "data/occupations-stats.tsv",
            STATS,
            "3f7f37c16381a70571356982ea7fe613ac700ad04a6d3b19b9f2be18248df567",
        ),
    ),
    digests={"examples": "18eab9313e8129be4796b360d7104ec509375e80e1f300130b1caa9933b87b58"},
)
# Case → template slot, and the pronouns. `her` is both possessive and accusative: only the template tells
# which.
SLOTS = {"$NOM_PRONOUN": "nominative", "$POSS_PRONOUN": "possessive", "$ACC_PRONOUN": "accusative"}
PRONOUNS = {
    "nominative": {"male": "he", "female": "she", "neutral": "they"},
    "possessive": {"male": "his", "female": "her", "neutral": "their"},
    "accusative": {"male": "him", "female": "her", "neutral": "them"},
}
ANSWERS = {"0": "occupation", "1": "participant"}
SENTID = re.compile(r"([^.]+)\.([^.]+)\.([01])\.(male|female|neutral)\.txt")

Facts = dict[str, dict[str, float]]
Cases = dict[tuple[str, str], str]
Group = tuple[str, str, str]


def present(data_dir: Path) -> bool:
    """Whether all three files are downloaded."""
    return all((data_dir / ORIGIN.name / file.name).is_file() for file in ORIGIN.files)


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The 240 examples, duplicates kept."""
    folder = reading.stored(ORIGIN, data_dir)[SENTENCES].parent
    examples, problems = parse(folder)
    total = len(examples) + len(problems)
    dropped = reading.refuse(problems, folder / SENTENCES, total, skip=skip_invalid)
    digest = digests.of_examples(examples)
    notes = reading.confirm(digest, ORIGIN, "examples", folder, dropped=dropped.total())
    return Dataset(
        name, tuple(examples), digest, total, dropped, notes, ORIGIN.record(), **occupations.about(examples)
    )


def parse(folder: Path) -> tuple[list[Example], list[Problem]]:
    """The examples of a folder with the three files, in their order, and what is wrong with the other
    groups.
    """
    cases = _cases(folder / TEMPLATES)
    facts = _facts(folder / STATS)
    groups, lines, problems = _groups(folder / SENTENCES)
    examples = []
    for group, sentences in groups.items():
        built = _example(group, sentences, cases.get((group[0], group[2])), facts.get(group[0]))
        if isinstance(built, str):
            problems.append(Problem(built, f"{lines[group]} ({'.'.join(group)})"))
        else:
            examples.append(built)
    return examples, problems


def _cases(path: Path) -> Cases:
    cases: Cases = {}
    for where, (occupation, _, answer, sentence) in reading.read_tsv(
        path, ("occupation(0)", "other-participant(1)", "answer", "sentence")
    ):
        slots = [case for slot, case in SLOTS.items() for _ in range(sentence.count(slot))]
        if len(slots) != 1 or answer not in ANSWERS:
            raise DataError(
                f"{where}: one pronoun slot and answer 0 or 1 are expected, found {len(slots)} slots and "
                f"answer {answer!r}"
            )
        if (occupation, answer) in cases:
            raise DataError(f"{where}: a second template for '{occupation}' with answer {answer}")
        cases[occupation, answer] = slots[0]
    return cases


def _facts(path: Path) -> Facts:
    facts: Facts = {}
    for where, (name, bergsma, bls, _) in reading.read_tsv(
        path, ("occupation", "bergsma_pct_female", "bls_pct_female", "bls_year")
    ):
        if name in facts:
            raise DataError(f"{where}: '{name}' is duplicated")
        facts[name] = {
            "bls_pct_female": reading.per_cent(bls, where),
            "bergsma_pct_female": reading.per_cent(bergsma, where),
        }
    return facts


def _groups(path: Path) -> tuple[dict[Group, dict[str, list[str]]], dict[Group, str], list[Problem]]:
    """Group → gender → sentences, group → FILE:LINE of its first row, and the rows that belong to no
    group.
    """
    groups: dict[Group, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    lines: dict[Group, str] = {}
    problems = []
    for where, (sentid, sentence) in reading.read_tsv(path, ("sentid", "sentence")):
        match = SENTID.fullmatch(sentid)
        if match is None:
            problems.append(
                Problem("sentid is not occupation.participant.answer.gender.txt", f"{where} ({sentid!r})")
            )
            continue
        group = (match[1], match[2], match[3])
        groups[group][match[4]].append(sentence)
        lines.setdefault(group, where)
    return groups, lines, problems


def _example(
    group: Group, sentences: Mapping[str, list[str]], case: str | None, facts: dict[str, float] | None
) -> Example | str:
    """The example, or the reason why there is none."""
    if any(len(texts) > 1 for texts in sentences.values()):
        return "duplicate sentid"
    if len(sentences) < 3:
        return "not one male, one female and one neutral sentence"
    if case is None or facts is None:
        return (
            "no template with this occupation and answer"
            if case is None
            else "occupation without labour statistics"
        )
    male, female, neutral = (sentences[gender][0] for gender in ("male", "female", "neutral"))
    # Pronouns may share letters (his, her): go back to the space before them.
    shared = "".join(
        letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], zip(male, female, strict=False))
    )
    prompt = male[: max(shared.rfind(" "), 0)]
    he, she, they = (f" {PRONOUNS[case][gender]}" for gender in ("male", "female", "neutral"))
    suffix = male.removeprefix(prompt + he)
    # The neutral sentence may differ after its pronoun (was, were).
    if (
        not prompt
        or (male, female) != (prompt + he + suffix, prompt + she + suffix)
        or not neutral.startswith(prompt + they)
    ):
        return "sentences do not differ in the template's pronoun alone"
    occupation, participant, answer = group
    meta = {"participant": participant, "answer": ANSWERS[answer], "case": case} | facts
    return Example(
        ".".join(group), "winogender", "gender", occupation, prompt, he, she, suffix=suffix, meta=meta
    )


def gather(folder: Path) -> Gathered:
    """The files to store, from a folder of copies: in itself, in `winogender/` or in `data/`.

    Raises DataError where the content is not the published one.
    """
    base = reading.copies(folder, ORIGIN)[SENTENCES].parent
    examples, problems = parse(base)
    reading.refuse(problems, base / SENTENCES, len(examples) + len(problems), skip=False)
    reading.confirm(digests.of_examples(examples), ORIGIN, "examples", base)
    return Gathered(
        {file.name: (base / file.name).read_bytes() for file in ORIGIN.files}, dict(ORIGIN.digests)
    )
