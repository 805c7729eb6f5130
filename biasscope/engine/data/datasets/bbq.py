"""BBQ (Parrish et al. 2022), ambiguous contexts: two persons, of whom nothing answers the question.

Each pair is asked about twice, with a harmful attribute (`neg`) and with its opposite (`nonneg`). The
stereotype is the person of the stereotyped group in the first and the *other* person in the second, so that
in the mean over both whatever does not depend on the question cancels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biasscope.engine.data import reading
from biasscope.engine.data.reading import Gathered, Origin, Problem, RemoteFile
from biasscope.engine.data.terms import shared, stereotypes
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

CATEGORIES = {
    "Age": "46e805b3fc2d8cbd26eeb8e8430d98cf7b2dc9c83574ff3674e8ce4f0fca2a60",
    "Disability_status": "375d40d9b71f056150264445ec189b13934998f3f49a1e311aa7578eb3b45e5f",
    "Nationality": "a583e74666aec0341ded8aa3983e7cad694eb24de72c254d28b2df3035720090",
    "Physical_appearance": "e48d7e13508565f4801574e611043470c25c95a0a62af3699cb5ee7cb02608fb",
    "Religion": "cb9555f9f3454a52cd2df85956b59bd7fcca5aa922c8527693b1164d08417616",
    "Sexual_orientation": "2c71036b9e7584fe589c42aef32c1a42bc01b9a5e9b1b8704342630cdb08cefd",
}
"""Category → the sha256 of its file."""
BY_FILE = ("Disability_status", "Nationality")
"""Not at hand when the digests of the others' content were computed: known by the file's sha256 alone."""
NAMES = ("bbq", *(f"bbq_{category.lower()}" for category in CATEGORIES))
ORIGIN = Origin(
    name="bbq",
    credit="Parrish, Chen, Nangia, Padmakumar, Phang, Thompson, Htut, Bowman (2022), BBQ: A hand-built bias "
    "benchmark for question answering",
    licence="CC BY 4.0",
    caveat="BBQ's questions were written for the United States; a model that does not read them has 0.",
    host="raw",
    url="https://github.com/nyu-mll/BBQ",
    repo="nyu-mll/BBQ",
    revision="bea11bd97d79217245b5871acd247b9d6eb24598",
    files=tuple(RemoteFile(f"data/{c}.jsonl", f"{c}.jsonl", sha256) for c, sha256 in CATEGORIES.items()),
    digests={
        "Age": "89b68a367e2c387b6135a940bf3efde8dcdefc1018e6e7cd37a6c3e667c97b55",
        "Physical_appearance": "5841cd7dfb4480ae491007ae0c6877f36dc22e940cd9eeae812fab67bff092a8",
        "Religion": "6b0dbd980fd422339636a194c6937655b5461b7a91e5c59d9cca589f7aedd46b",
        "Sexual_orientation": "49d255f0ad0b79b079bff43b3d11f9fbbb2e2a0579676604c0c646266958384e",
        **{category: CATEGORIES[category] for category in BY_FILE},
    },
)
ANSWERS = ("ans0", "ans1", "ans2")


def present(data_dir: Path) -> bool:
    """Whether some of the files are downloaded."""
    return any((data_dir / ORIGIN.name / file.name).is_file() for file in ORIGIN.files)


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The ambiguous examples of a category, or of those that are downloaded."""
    files = [f.name for f in ORIGIN.files if name in ("bbq", f"bbq_{_category(f.name).lower()}")]
    missing = [file for file in files if not (data_dir / ORIGIN.name / file).is_file()]
    here = [file for file in files if file not in missing] or files
    examples, dropped, notes = [], Counter[str](), tuple[str, ...]()
    for path in reading.stored(ORIGIN, data_dir, *here).values():
        of_file, refused, unlike = _checked(name, path, skip_invalid=skip_invalid)
        examples += of_file
        dropped += refused
        notes += unlike
    if missing:
        notes += (f"{', '.join(missing)} not downloaded: these are {len(here)} of {len(files)} categories",)
    return Dataset(
        name,
        tuple(examples),
        digests.of_examples(examples),
        len(examples) + dropped.total(),
        dropped,
        notes,
        ORIGIN.record(),
        noun="question",
        bias=stereotypes(e.bias_type for e in examples),
        rule="polarity",
    )


def _category(file: str) -> str:
    return file.removesuffix(".jsonl")


def _checked(
    name: str, path: Path, *, skip_invalid: bool
) -> tuple[list[Example], Counter[str], tuple[str, ...]]:
    """A file's examples, what was refused, and a note where they are not as published."""
    category = _category(path.name)
    examples, problems = parse(name, path)
    dropped = reading.refuse(problems, path, len(examples) + len(problems), skip=skip_invalid)
    digest = digests.of_file(path) if category in BY_FILE else digests.of_examples(examples)
    return examples, dropped, reading.confirm(digest, ORIGIN, category, path, dropped=dropped.total())


def parse(name: str, path: Path) -> tuple[list[Example], list[Problem]]:
    """The examples of a file, in its order, and what is wrong with other ambiguous rows."""
    examples: list[tuple[str, Example]] = []
    problems = []
    ids: set[str] = set()
    polarities: dict[str, Counter[object]] = defaultdict(Counter)
    for number, line in enumerate(reading.read_text(path).split("\n"), 1):
        if not line:
            continue
        where, row = f"{path}:{number}", reading.parse_json(line, path, number)
        if isinstance(row, dict) and row.get("context_condition") == "disambig":
            continue
        example = _example(name, _category(path.name), row)
        if isinstance(example, Example) and example.id in ids:
            example = "duplicate example_id"
        if isinstance(example, str):
            problems.append(Problem(example, where))
            continue
        ids.add(example.id)
        examples.append((where, example))
        polarities[example.together][example.meta["polarity"]] += 1
    uneven = {key for key, counts in polarities.items() if counts["neg"] != counts["nonneg"]}
    reason = "its pair is not asked about as often with the other polarity"
    problems += [Problem(reason, where) for where, e in examples if e.together in uneven]
    return [e for _, e in examples if e.together not in uneven], problems


def _example(name: str, category: str, row: Any) -> Example | str:
    """The example of an ambiguous row, or the reason why there is none."""
    if not isinstance(row, dict) or not _well_formed(row):
        return "a field is missing or of another kind"
    labels: Mapping[str, list[str]] = row["answer_info"]
    persons = [key for key in ANSWERS if labels[key][-1] != "unknown"]
    groups = {group.lower() for group in row["additional_metadata"]["stereotyped_groups"]}
    targets = [key for key in persons if groups & {label.lower() for label in labels[key]}]
    if len(persons) != 2 or len(targets) != 1:
        return "not two persons, one of them of a stereotyped group, and one unknown answer"
    (target,), (other,) = targets, {*persons} - {*targets}
    if row[target] == row[other]:
        return "both persons have one answer"
    before, of_target, of_other, after = _cut(row[target], row[other])
    polarity, group = row["question_polarity"], f"{category}.{row['question_index']}"
    stereo, anti = (of_target, of_other) if polarity == "neg" else (of_other, of_target)
    return Example(
        id=f"{category}.{row['example_id']}",
        dataset=name,
        bias_type=category.lower(),
        group=group,
        prompt=f"{row['context']}\n\nQ: {row['question']}\nA:{before}",
        stereo=stereo,
        anti=anti,
        suffix=after,
        meta={"polarity": polarity, "terms": "|".join(sorted(labels[key][-1] for key in persons))},
        term="",
        together="\n".join((group, row["context"], *sorted((row[target], row[other])))),
    )


def _well_formed(row: Mapping[str, Any]) -> bool:
    texts = [row.get(key) for key in ("context", "question", *ANSWERS)]
    labels, about = row.get("answer_info"), row.get("additional_metadata")
    if not isinstance(labels, dict) or not isinstance(about, dict):
        return False
    lists = [about.get("stereotyped_groups"), *(labels.get(key) for key in ANSWERS)]
    return (
        all(isinstance(text, str) and text for text in texts)
        and all(isinstance(each, list) and each and all(isinstance(t, str) for t in each) for each in lists)
        and all(isinstance(row.get(key), str | int) for key in ("question_index", "example_id"))
        and row.get("context_condition") == "ambig"
        and row.get("question_polarity") in ("neg", "nonneg")
    )


def _cut(target: str, other: str) -> tuple[str, str, str, str]:
    """What both answers begin with, what each has of its own, and what both end with; words with their
    spaces.
    """
    first, second = ([f" {word}" for word in answer.split(" ")] for answer in (target, other))
    lead = shared(first[:-1], second[:-1])  # at least one word is left to each
    before, first, second = first[:lead], first[lead:], second[lead:]
    trail = shared(first[:0:-1], second[:0:-1])
    own, last = (words[: len(words) - trail] for words in (first, second))
    return "".join(before), "".join(own), "".join(last), "".join(first[len(own) :])


def gather(folder: Path) -> Gathered:
    """The files to store, from a folder of copies of some: in itself, in `bbq/` or in `data/`.

    Raises DataError where the content is not the published one.
    """
    paths = reading.copies(folder, ORIGIN, all_needed=False)
    for path in paths.values():
        _checked(NAMES[0], path, skip_invalid=False)
    content = {_category(name): ORIGIN.digests[_category(name)] for name in paths}
    return Gathered({name: path.read_bytes() for name, path in paths.items()}, content)
