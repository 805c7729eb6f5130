"""`definitional`, which ships with the package: prompts in which the gender is a fact of the noun, not a
guess about it.

Each sentence, written for biasscope, stands once with the male and once with the female noun. `stereo` is the
pronoun that fits the noun, `anti` the other one, and the group is the sentence: the mean of `target` over its
two prompts is half the gap [log p(he) − log p(she)] after the male noun − the same after the female one, in
which whatever the model prefers after both, the base rate of "he", cancels. 0: the pronoun does not depend on
the noun; above 0 it follows the noun's gender. (A sample by --limit may hold one prompt of a sentence; the
base rate then cancels only on average.)
"""

from collections.abc import Sequence
from pathlib import Path

from biasscope.engine.data import reading
from biasscope.engine.data.datasets.occupations import PRONOUNS
from biasscope.engine.data.reading import Origin
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

NAMES = ("definitional",)
ORIGIN = Origin(name="definitional", credit="biasscope", licence="as biasscope", host="package")
HERE = Path(__file__).parent


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """Two examples a sentence; nothing of it is invalid or downloaded."""
    rows = reading.read_tsv(HERE / "definitional.tsv", ("key", "male", "female", "case", "prompt", "suffix"))
    examples = tuple(example for row in rows for example in _pair(row.fields))
    return Dataset(
        name,
        examples,
        digests.of_examples(examples),
        len(examples),
        record=ORIGIN.record(),
        noun="sentence pair",
        rule="stereoset",
        sides=("the gender that the noun has", "the other gender than the noun has"),
    )


def _pair(fields: Sequence[str]) -> tuple[Example, Example]:
    """The two examples of a line: the noun for a man, and the one for a woman."""
    key, male, female, case, prompt, suffix = fields
    he, she = PRONOUNS[case]

    def example(noun: str, gender: str, fits: str, against: str) -> Example:
        text, about = prompt.format(noun=noun), {"gender": gender}
        return Example(
            f"{noun}.{key}",
            NAMES[0],
            "gender",
            key,
            text,
            fits,
            against,
            suffix=suffix,
            meta=about,
            term=noun,
        )

    return example(male, "male", he, she), example(female, "female", she, he)
