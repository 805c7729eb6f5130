"""What single sites do, for the page's script: effect per group, prompts moved most, where a head looks."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.statistics.cells import SITE
from biasscope.engine.types import Site
from biasscope.report.page.blocks import clean_text
from biasscope.report.page.gather import Map

MOVED = 10
"""Prompts each way of a site."""
GROUPS = 150
"""Groups of a site; of more those that it moves most."""
PLACE = SITE[:3]
Values = list[Any]
Looks = dict[str, list[int]]
"""Example → the weight of each token of its prompt, in thousandths."""


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number with so many digits; None where there is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def details(site_map: Map, sites: pl.DataFrame) -> tuple[dict[Site, dict[str, Any]], list[Values], str]:
    """The details of these sites, the prompts they name, and why something is missing."""
    run = site_map.run
    file, texts, patterns = (run.folder / f"{n}.parquet" for n in ("effects", "prompts", "patterns"))
    if sites.is_empty() or not file.is_file():
        return {}, [], ""
    effects = pl.scan_parquet(file).filter(
        pl.col("effect").is_finite(), metric="target", source=site_map.source, dataset=run.data.name
    )
    # no join: it may give another order of rows, and the page other bytes, each time
    wanted = pl.any_horizontal(
        pl.all_horizontal(pl.col(name).eq_missing(value) for name, value in zip(PLACE, site, strict=True))
        for site in sites.rows()
    )
    effects = effects.filter(wanted).select(*PLACE, "example_id", "group", "baseline", "value", "effect")
    by_site = dict(_by(effects.collect()))
    if not texts.is_file():
        says = "its texts were not kept by the version that made it; run it again with --fresh"
        return {site: _detail(rows) for site, rows in by_site.items()}, [], says
    written = pl.read_parquet(texts)
    looks, terms = (_looks(patterns), _terms(patterns)) if patterns.is_file() else ({}, {})
    known: dict[str, int] = {}
    details = {}
    for site, rows in by_site.items():
        own = looks.get(site, {})
        moved = _moved(rows.join(written, on="example_id", maintain_order="left"), own, known)
        details[site] = _detail(rows) | moved | {"term": terms.get(site)}
    unread = "" if looks else run.data.attention or "where its heads look was not kept"
    return details, _prompts(written, known, patterns), unread


def _by(effects: pl.DataFrame) -> Iterator[tuple[Site, pl.DataFrame]]:
    for rows in effects.partition_by(*PLACE, maintain_order=True):
        component, layer, head = rows.select(PLACE).row(0)
        yield Site(layer, component, head), rows


def _detail(rows: pl.DataFrame) -> dict[str, Any]:
    """The mean effect per group, by its name."""
    means = rows.group_by("group", maintain_order=True).agg(pl.col("effect").mean())
    means = means.sort(pl.col("effect").abs(), descending=True).head(GROUPS)
    return {"effects": {clean_text(group): rounded(effect, 4) for group, effect in means.iter_rows()}}


def _moved(rows: pl.DataFrame, looks: Looks, known: dict[str, int]) -> dict[str, Any]:
    """The texts moved most each way: number, baseline and value, and where the head looks (‰)."""
    text = ["prompt", "anti_prompt", "stereo", "anti"]
    largest = rows.sort(pl.col("effect").abs(), descending=True, maintain_order=True)
    ordered = largest.unique(text, keep="first", maintain_order=True).sort("effect", maintain_order=True)
    ways = {
        "up": ordered.filter(pl.col("effect") > 0).reverse(),
        "down": ordered.filter(pl.col("effect") < 0),
    }
    return {
        way: [
            [
                known.setdefault(example, len(known)),
                rounded(before, 4),
                rounded(after, 4),
                looks.get(example),
            ]
            for example, before, after in of.head(MOVED).select("example_id", "baseline", "value").rows()
        ]
        for way, of in ways.items()
    }


def _looks(file: Path) -> dict[Site, Looks]:
    """Head → example → the weight of each token, in thousandths."""
    weights = (pl.col("weight").fill_null(0.0) * 1000).round().cast(pl.Int32)
    rows = pl.read_parquet(file).group_by("layer", "head", "example_id", maintain_order=True).agg(weights)
    found: dict[Site, Looks] = {}
    for layer, head, example, thousandths in rows.iter_rows():
        found.setdefault(Site(layer, "z", head), {})[example] = thousandths
    return found


def _terms(file: Path) -> dict[Site, Values]:
    """Head → the mean weight of the term's tokens, the share of tokens that these are, and the prompts."""
    inside = pl.col("weight").filter(pl.col("term")).sum()
    prompts = (
        pl.read_parquet(file)
        .group_by("layer", "head", "example_id", maintain_order=True)
        .agg(inside, pl.col("term").mean())
    )
    means = prompts.group_by("layer", "head", maintain_order=True).agg(
        pl.col("weight").mean(), pl.col("term").mean(), n=pl.len()
    )
    return {
        Site(layer, "z", head): [rounded(weight, 4), rounded(share, 4), n]
        for layer, head, weight, share, n in means.iter_rows()
    }


def _prompts(texts: pl.DataFrame, known: Mapping[str, int], patterns: Path) -> list[Values]:
    """Per prompt: group, text, both continuations, its tokens (null: not kept), its term's, other prompt."""
    tokens: dict[str, tuple[list[str], list[bool]]] = {}
    if patterns.is_file():
        rows = pl.read_parquet(patterns, columns=["example_id", "node", "token", "term", "layer", "head"])
        rows = rows.filter(pl.col("example_id").is_in(list(known)))
        once = rows.unique(["example_id", "node"], maintain_order=True).sort("example_id", "node")
        for example, token, term in once.group_by("example_id").agg("token", "term").iter_rows():
            tokens[example] = ([clean_text(t) for t in token], term)
    rows = texts.filter(pl.col("example_id").is_in(list(known)))
    found = []
    for row in sorted(rows.to_dicts(), key=lambda row: known[row["example_id"]]):
        other = row["anti_prompt"]
        said = [clean_text(row["group"]), clean_text(row["prompt"]), clean_text(row["stereo"])]
        pieces, term = tokens.get(row["example_id"], (None, []))
        places = [i for i, of in enumerate(term) if of]
        found.append([*said, clean_text(row["anti"]), pieces, places, other and clean_text(other)])
    return found
