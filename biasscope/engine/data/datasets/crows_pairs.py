"""CrowS-Pairs, revised, in English and French (Névéol et al. 2022, after Nangia et al. 2020).

A pair is P A R and P B R, with A and B the one run of words that differs: two prompts, P A and P B, and the
shared text R after them. The first of each pair is the more stereotyping one. Rows without such a form keep
their two whole sentences.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from biasscope.engine.data import reading
from biasscope.engine.data.reading import Gathered, Origin, Problem, RemoteFile, Row
from biasscope.engine.data.terms import shared, stereotypes
from biasscope.engine.errors import DataError
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

NAMES = ("crows_pairs", "crows_pairs_fr")
FILES = {
    "crows_pairs": "crows_pairs_EN_revised+210.csv",
    "crows_pairs_fr": "crows_pairs_FR_languagearc_contribution+210.csv",
}
_SHA256 = {
    "crows_pairs": "c2c449a051ae93a61dae7a882c7a3efdfce04215c492ed2365d01c0861cecafe",
    "crows_pairs_fr": "1b5de822b34188375c04b949ec2e2678373b65f81d8f0bfbbef9b7df3958d2e9",
}
ORIGIN = Origin(
    name="crows_pairs",
    credit="Névéol, Dupont, Bezançon, Fort (2022), French CrowS-Pairs, after Nangia, Vania, Bhalerao, Bowman "
    "(2020), CrowS-Pairs",
    licence="CC BY-SA 4.0",
    caveat="CrowS-Pairs has been criticised as a measure of stereotyping (Blodgett et al. 2021); the "
    "revision mends many of its pairs, not all.",
    host="raw",
    url="https://github.com/shijing001/bayes_factor_bias_detection",
    repo="shijing001/bayes_factor_bias_detection",
    revision="9efa5cb6a9854d4f1407d475d86995a1a75968b3",
    files=tuple(
        RemoteFile(f"French_CrowS_pairs/{file}", file, _SHA256[name]) for name, file in FILES.items()
    ),
    digests={
        "crows_pairs": "a8fbff6a90a172e01d036bae217918b162a6a49eff3d910931e746c51d6138e1",
        "crows_pairs_fr": "9357e92a39ed8e2c5180c813c2a831bfbcfcbffc2daa5e0a56eb267e121718b8",
    },
)
COLUMNS = ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type")
SEVERAL, NOTHING, SAME = "differs in more than one place", "nothing follows the difference", "identical"
"""Why a published row has no shared text after one difference."""
DOMINANT = 0.2
"""The share of a bias type above which one pair of words is named in a note."""
FRENCH = "the sentences are French; nothing checks that the model knows it"


def present(data_dir: Path) -> bool:
    """Whether one of the two lists is downloaded."""
    return any((data_dir / ORIGIN.name / file).is_file() for file in FILES.values())


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """The pairs of a list; those that are not of the form have a flaw."""
    (path,) = reading.stored(ORIGIN, data_dir, FILES[name]).values()
    return _checked(name, path, skip_invalid=skip_invalid)


def _checked(name: str, path: Path, *, skip_invalid: bool) -> Dataset:
    examples, problems = parse(name, path)
    total, digest = len(examples) + len(problems), digests.of_examples(examples)
    dropped = reading.refuse(problems, path, total, skip=skip_invalid)
    notes = reading.confirm(digest, ORIGIN, name, path, dropped=dropped.total())
    return Dataset(
        name,
        tuple(examples),
        digest,
        total,
        dropped,
        (*notes, *((FRENCH,) if name == "crows_pairs_fr" else ()), *_dominant(examples)),
        ORIGIN.record(),
        noun="pair of words",
        bias=stereotypes(e.bias_type for e in examples),
        rule="sides",
    )


def _dominant(examples: Iterable[Example]) -> list[str]:
    """The note that names the bias types of which one pair of words is a large part."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for e in examples:
        if not e.flaw:
            groups[e.bias_type][e.group] += 1
    shares = []
    for kind, counts in sorted(groups.items()):
        ((group, n),) = counts.most_common(1)
        if n > DOMINANT * counts.total():
            shares.append(f"{kind} ({group}, {n / counts.total():.0%})")
    return [
        f"one pair of words holds more than a fifth of {', '.join(shares)}: interval and p of such a type "
        "are close to statements about that pair"
    ] * bool(shares)


def parse(name: str, path: Path) -> tuple[list[Example], list[Problem]]:
    """The examples of a list, in its order, and what is wrong with other rows."""
    examples, problems = list[Example](), list[Problem]()
    ids: set[str] = set()
    for where, (number, more, less, direction, kind) in _rows(path):
        first, second = more.split(), less.split()
        # one French row has no second sentence: what is left of it has a flaw
        if not (number and kind and (first or second)):
            problems.append(Problem("empty cell", where))
        elif direction not in ("stereo", "antistereo"):
            problems.append(Problem("neither stereo nor antistereo", f"{where} ({direction[:40]!r})"))
        elif number in ids:
            problems.append(Problem("duplicate number", f"{where} ({number})"))
        else:
            ids.add(number)
            examples.append(_example(name, number, kind, direction, (first, second)))
    return examples, problems


def _rows(path: Path) -> list[Row]:
    """The rows of a tab-separated file with quotes, each at the line where it begins."""
    rows, line = list[Row](), 1
    table = csv.reader(io.StringIO(reading.read_text(path), newline=""), delimiter="\t", strict=True)
    try:
        for fields in table:
            rows.append(Row(f"{path}:{line}", tuple(fields)))
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: malformed tab-separated text: {error}") from error
    if not rows or rows[0].fields != COLUMNS:
        raise DataError(f"{path}:1: the header must be (no name) | {' | '.join(COLUMNS[1:])}, tab-separated")
    for where, cells in rows:
        if len(cells) != len(COLUMNS):
            raise DataError(f"{where}: {len(COLUMNS)} columns are expected, found {len(cells)}")
    return rows[1:]


def _example(name: str, number: str, kind: str, direction: str, pair: tuple[list[str], list[str]]) -> Example:
    first, second = pair
    lead = shared(first, second)
    before, own, other = first[:lead], first[lead:], second[lead:]
    trail = shared(own[::-1], other[::-1])
    own, other, after = own[: len(own) - trail], other[: len(other) - trail], own[len(own) - trail :]
    flaw = SEVERAL if {*own} & {*other} else SAME if not own + other else NOTHING if not after else None
    text = "".join(f" {word}" for word in after)
    return Example(
        id=number,
        dataset=name,
        bias_type=kind,
        group="|".join(sorted((_folded(own), _folded(other)))) if own + other else number,
        prompt="" if flaw else " ".join(before + own),
        anti_prompt=None if flaw else " ".join(before + other),
        stereo="" if flaw else text,
        anti="" if flaw else text,
        sentences=(" ".join(first), " ".join(second)) if first and second else None,
        flaw=flaw,
        term="" if flaw else " ".join(own),
        meta={"direction": direction},
    )


def _folded(words: Sequence[str]) -> str:
    """The words without case, without marks at their ends and without a final "s" where they are longer
    than three letters: "Blacks," and "black" are one group.
    """
    bare = [re.sub(r"^\W+|\W+$", "", word.lower()) for word in words]
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in bare if word)


def gather(folder: Path) -> Gathered:
    """The lists to store, from a folder of copies of one or both: in itself, in `crows_pairs/` or as in the
    repository.

    Raises DataError where the content is not the published one.
    """
    paths = reading.copies(folder, ORIGIN, all_needed=False)
    here = [name for name in NAMES if FILES[name] in paths]
    for name in here:
        _checked(name, paths[FILES[name]], skip_invalid=False)
    content = {name: ORIGIN.digests[name] for name in here}
    return Gathered({file: path.read_bytes() for file, path in paths.items()}, content)
