"""How to read what is shown: what a column holds, what a positive number is nearer to. Text only."""

from collections.abc import Sequence

import polars as pl

from biasscope.engine import stats
from biasscope.engine.types import TOTAL

COLUMNS = {
    "recov.": "recov.: effect / total, – where the total's interval holds 0",
    "shift": "shift: mean change of target, nats, in all occupations alike: base rate of “he”",
    "rms": "rms: of target, nats",
    "compet.": "compet.: rms of the change of competence, nats",
    "kl": "kl: nats",
    "factual": "factual: rms of the change of target where gender is a fact",
    "specif.": "specif.: share of bias in bias + competence + factual",
}
"""What a column beside the ranked one holds."""
SPARE = ("kl", "rms", "compet.", "shift")
"""Those without which an effect can be read, the least needed first."""


def towards(dataset: str) -> tuple[str, str]:
    """What a positive and what a negative target is nearer to, in the words of the dataset; only StereoSet's are stereotypes."""
    if dataset == "definitional":
        return "the gender that the noun has", "the other gender than the noun has"
    if dataset in ("winogender", "occupations"):
        return "“he”", "“she”"
    if dataset.startswith("stereoset"):
        return "the stereotype's word", "the anti-stereotype's word"
    return "the first of the two words", "the second of the two words"


def of_summary(summary: pl.DataFrame, dataset: str, columns: Sequence[str]) -> list[str]:
    """A line for each thing that a table of these rows shows, and only for the columns that it has."""
    lines = []
    if (summary["statistic"] == "slope").any():
        lines.append("slope: of target on the occupation's share of men, nats per SD: the stereotype")
    elif summary["component"].is_not_null().any():
        lines.append(f"effect: mean change of target, nats; positive: towards {towards(dataset)[0]}")
    if (summary["component"] == TOTAL).any():
        lines.append("total: the whole prompt exchanged for its twin")
    lines += [COLUMNS[name] for name in columns if name in COLUMNS]
    groups = max(summary.filter(pl.col("subset") == "all")["clusters"].drop_nulls().to_list(), default=0)
    note = stats.few_clusters_note(groups, noun(dataset))
    return [*lines, note] if note else lines


def noun(dataset: str) -> str:
    """What a group of the dataset is called."""
    return "term" if dataset.startswith("stereoset") else "group"
