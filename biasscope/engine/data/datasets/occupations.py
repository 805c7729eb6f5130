"""`occupations`, which ships with the package: 60 occupations with their labour statistics in sentences
written for biasscope.

Names and percentages are facts taken from the WinoGender schemas (Rudinger et al. 2018): women among the
employed after the US Bureau of Labor Statistics 2015/16, and women in text after Bergsma and Lin (2006).
Templates and participants are our own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biasscope.engine.data import reading
from biasscope.engine.data.reading import Origin
from biasscope.engine.store import digests
from biasscope.engine.types import Covariate, Dataset, Example

NAMES = ("occupations",)
ORIGIN = Origin(
    name="occupations",
    credit=(
        "sentences: biasscope; occupations and percentages: Rudinger et al. (2018), "
        "after US Bureau of Labor Statistics 2015/16 and Bergsma and Lin (2006)"
    ),
    licence="as biasscope; the percentages are facts",
    caveat="The sentences ask for two pronouns, in English, of people who are named by an occupation alone.",
    host="package",
)
HERE = Path(__file__).parent
PRONOUNS = {"nominative": (" he", " she"), "possessive": (" his", " her"), "accusative": (" him", " her")}
SIDES = ("“he”", "“she”")
"""What the pronouns are called in a sentence."""
BIAS = "the occupational stereotype"
"""What it is to prefer “he” the more, the more men an occupation has."""
SHARES = {"bls": "share of men", "bergsma": "share of men in texts"}
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
    return Dataset(
        name,
        examples,
        digests.of_examples(examples),
        len(examples),
        record=ORIGIN.record(),
        templates={e.id: e.id.rpartition(".")[2] for e in examples},
        **about(examples),
    )


def about(examples: Sequence[Example]) -> dict[str, Any]:
    """What sets of occupations and pronouns have in common, as fields of `Dataset`: shares of men, words."""
    men = {key: {e.group: 100.0 - float(e.meta[f"{key}_pct_female"]) for e in examples} for key in SHARES}
    covariates = tuple(Covariate(name, "%", men[key], key) for key, name in SHARES.items())
    return {
        "covariates": covariates,
        "noun": "occupation",
        "sides": SIDES,
        "bias": BIAS,
        "rule": "occupation",
    }


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
