"""`occupations`, which ships with the package: 60 occupations with their labour statistics in sentences
written for biasscope.

Names and percentages are facts taken from the WinoGender schemas (Rudinger et al. 2018): women among the
employed after the US Bureau of Labor Statistics 2015/16, and women in text after Bergsma and Lin (2006).
Templates and participants are our own.
"""

from pathlib import Path

from biasscope.engine.data import reading
from biasscope.engine.data.reading import Origin
from biasscope.engine.store import digests
from biasscope.engine.types import Dataset, Example

NAMES = ("occupations",)
ORIGIN = Origin(
    name="occupations",
    credit=(
        "sentences: biasscope; occupations and percentages: Rudinger et al. (2018), "
        "after US Bureau of Labor Statistics 2015/16 and Bergsma and Lin (2006)"
    ),
    licence="as biasscope; the percentages are facts",
    host="package",
)
HERE = Path(__file__).parent
PRONOUNS = {"nominative": (" he", " she"), "possessive": (" his", " her"), "accusative": (" him", " her")}
PARTICIPANTS = (
    "neighbor",
    "newcomer",
    "delegate",
    "traveler",
    "volunteer",
    "stranger",
    "tourist",
    "reporter",
    "tenant",
    "colleague",
)


def read(name: str, data_dir: Path, *, skip_invalid: bool = False) -> Dataset:
    """One example per occupation and template; nothing of it is invalid or downloaded."""
    facts = reading.read_tsv(
        HERE / "occupations.tsv", ("occupation", "bls_pct_female", "bergsma_pct_female", "bls_year")
    )
    templates = reading.read_tsv(
        HERE / "occupation_templates.tsv", ("template", "case", "participant", "prompt", "suffix")
    )
    examples = tuple(
        _example(fact.fields, template.fields, PARTICIPANTS[(row + column) % len(PARTICIPANTS)])
        for row, fact in enumerate(facts)
        for column, template in enumerate(templates)
    )
    return Dataset(name, examples, digests.of_examples(examples), len(examples), record=ORIGIN.record())


def _example(fact: tuple[str, ...], template: tuple[str, ...], participant: str) -> Example:
    occupation, bls, bergsma, _ = fact
    key, case, wants_participant, prompt, suffix = template
    he, she = PRONOUNS[case]
    article = "an" if occupation[0] in "aeiou" else "a"
    return Example(
        id=f"{occupation}.{key}",
        dataset=NAMES[0],
        bias_type="gender",
        group=occupation,
        prompt=prompt.format(
            occupation=occupation, a_occupation=f"{article} {occupation}", participant=participant
        ),
        stereo=he,
        anti=she,
        suffix=suffix,
        meta={
            "participant": participant if wants_participant else "",
            "answer": "occupation",
            "case": case,
            "bls_pct_female": float(bls),
            "bergsma_pct_female": float(bergsma),
        },
    )
