"""`definitional`, which ships with the package: prompts in which the gender is a fact of the noun, not a guess about it.

Each sentence, written for biasscope, stands once with the male and once with the female noun. `stereo` is the male pronoun in
both, as everywhere: a model that knows the language scores above 0 on the male nouns and below 0 on the female ones.
"""

from pathlib import Path

from biasscope.engine import digests, reading
from biasscope.engine.datasets.occupations import PRONOUNS
from biasscope.engine.sources import Source
from biasscope.engine.types import Dataset, Example

NAMES = ("definitional",)
SOURCE = Source(name="definitional", credit="biasscope", licence="as biasscope", host="package")
HERE = Path(__file__).parent


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """Two examples a sentence; nothing of it is invalid or downloaded."""
    rows = reading.read_tsv(HERE / "definitional.tsv", ("key", "male", "female", "case", "prompt", "suffix"))
    examples = tuple(example for row in rows for example in _pair(*row.fields))
    return Dataset(name, examples, digests.of_examples(examples), len(examples), record=SOURCE.record())


def _pair(key: str, male: str, female: str, case: str, prompt: str, suffix: str) -> tuple[Example, Example]:
    he, she = PRONOUNS[case]

    def example(noun: str, gender: str) -> Example:
        text = prompt.format(noun=noun)
        return Example(f"{noun}.{key}", NAMES[0], "gender", noun, text, he, she, suffix=suffix, meta={"gender": gender})

    return example(male, "male"), example(female, "female")
