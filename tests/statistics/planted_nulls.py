"""How often a star stands at a head or MLP of noise: `planted:graded` built with 200 seeds of its noise.

`python -m tests.statistics.planted_nulls [FIRST LAST]` (part of `make calibrate`) prints the rows of
docs/method.md, section 6: the share of seeds with any star at a site in which nothing is planted, of an exact
scan by each source and of the changes of a conditional scan, 60 prompts a seed, tests as a run has them.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import torch

from biasscope.engine import schemas
from biasscope.engine.data import datasets
from biasscope.engine.experiments.between.conditional import KEYS, MOST
from biasscope.engine.measure import exact, sources
from biasscope.engine.model import planted, tokens, twins
from biasscope.engine.model.loading import LM
from biasscope.engine.schemas import EFFECTS
from biasscope.engine.statistics.cells import partners, sites_of
from biasscope.engine.statistics.summary import ranking, summarise
from biasscope.engine.types import Dataset, Design, Edit, Site
from tests.support.tiny_models import graded

SEEDS, PROMPTS = 200, 60
SOURCES = ("zero", "mean", "corrupt")
CONDITIONAL = "conditional (zero)"
WORDS = planted.words()
PLANTED = frozenset(planted.strengths())


def starred(effects: pl.DataFrame, design: Design) -> list[Site]:
    """The sites with a star, strongest first."""
    rows = ranking(summarise(effects, model="m", method="exact", design=design))
    return list(dict.fromkeys(sites_of(rows.filter(schemas.starred()))))


def scans(lm: LM, data: Dataset) -> Iterator[tuple[str, list[Site]]]:
    """Each kind of scan, and the sites that have a star in it."""
    kept, _ = twins.fit(lm, data, 0)
    plain = tokens.forest(lm, data.examples)
    swapped = tokens.forest(
        lm, [e for e in data.examples if e.id in kept], twins={id_: t.prompt for id_, t in kept.items()}
    )
    sites, alone = sources.sites(lm, ["z", "mlp_out"]), Design(data.covariate)
    found = {}
    for name in SOURCES:
        forest = swapped if name == "corrupt" else plain
        effects = exact.sweep(
            lm, forest, sources.Sweep(sites, sources.source(name, lm, forest, sites), metrics=("target",))
        )
        design = Design(data.covariate, partners(twins.table(data, kept))) if name == "corrupt" else alone
        found[name] = starred(effects.filter(pl.col("component") != schemas.TOTAL), design)
        yield name, found[name]
        if name == "zero":
            before = effects
    candidates = list(dict.fromkeys([*found["zero"], *found["corrupt"]]))[:MOST]
    if candidates:
        changed = pl.concat(_changes(lm, plain, before, sites, gone) for gone in candidates)
        yield CONDITIONAL, starred(changed, alone)


def _changes(
    lm: LM, forest: tokens.Forest, before: pl.DataFrame, sites: Sequence[Site], gone: Site
) -> pl.DataFrame:
    """EFFECTS of how the others change once a candidate is gone, as `ablate --conditional` tests them."""
    others, zero = [site for site in sites if site != gone], sources.zero(lm)
    sweep = sources.Sweep(others, zero, metrics=("target",), edit=Edit({gone: zero}))
    after = exact.sweep(lm, forest, sweep).drop("baseline").rename({"effect": "after"})
    both = after.join(
        before.select(*KEYS, baseline="effect"), on=KEYS, nulls_equal=True, maintain_order="left"
    )
    effect = pl.col("after") - pl.col("baseline")
    return both.with_columns(position=pl.lit(f"behind {gone}"), value="after", effect=effect).select(
        EFFECTS.names()
    )


def main(first: int, last: int) -> None:
    """Print the share of seeds with a star at a site of noise, and of planted heads with one."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data = datasets.load("occupations", Path(), limit=PROMPTS)
    alarms: dict[str, list[list[str]]] = {}
    hits: dict[str, list[float]] = {}
    for seed in range(first, last):
        for name, sites in scans(graded(seed), data):
            alarms.setdefault(name, []).append([str(site) for site in sites if site not in PLANTED])
            hits.setdefault(name, []).append(len(PLANTED & set(sites)) / len(PLANTED))
    sys.stdout.write(
        "| planted:graded | seeds | a star at noise | planted heads with one |\n|---|--:|--:|--:|\n"
    )
    for name, each in alarms.items():
        share, found = sum(map(bool, each)) / (last - first), sum(hits[name]) / len(hits[name])
        sys.stdout.write(f"| {name} | {last - first} | {share:.3f} | {found:.2f} |\n")


if __name__ == "__main__":
    main(*(map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (0, SEEDS)))
