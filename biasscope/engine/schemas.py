"""The tables' columns, and what rows of SUMMARY mean: single sites, marks, how numbers are written."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from biasscope.engine.types import EDGE, INSIDE

_SITE = {"component": pl.String, "layer": pl.Int32, "head": pl.Int32, "position": pl.String}

SCORES = pl.Schema(
    {
        "example_id": pl.String,
        "group": pl.String,
        "dataset": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
    }
)
"""One row per example and metric of the clean model."""

SUBSETS = pl.Schema({"example_id": pl.String, "subset": pl.String})
"""One row per example of each selection that has rows of its own in a baseline's SUMMARY, "all" left out."""

TRIPLES = pl.Schema(
    {"split": pl.String, "example_id": pl.String, "group": pl.String, "bias_type": pl.String}
    | {"stereo": pl.Float64, "anti": pl.Float64, "unrelated": pl.Float64}
)
"""One row per StereoSet example: the scores of its three sentences, larger = likelier."""

TOTAL = "total"
"""The component of rows about the whole prompt exchanged for its twin: no site, layer and head null."""

NOTHING = "nothing"
"""The component of passes in which the stream at a layer was only rounded anew; head: the draw."""

EFFECTS = pl.Schema(
    {
        "example_id": pl.String,
        "group": pl.String,
        "dataset": pl.String,
        "source": pl.String,
        "metric": pl.String,
    }
    | _SITE
    | {"baseline": pl.Float64, "value": pl.Float64, "effect": pl.Float64}
)
"""One row per example, site and metric; effect = value − baseline, always."""

TWINS = pl.Schema(dict.fromkeys(("example_id", "group", "partner", "clean", "twin"), pl.String))
"""One row per example patched with its counterfactual: both prompts, and what stands in the term's place."""

_ENDS: dict[str, Any] = {
    f"{end}_{name}": kind for end in ("up", "down") for name, kind in list(_SITE.items())[:3]
}
GRAPH = pl.Schema({"edge": pl.Int32} | _ENDS)
"""One row per edge of a model: its number, what adds to the stream and what reads it."""

EDGES = pl.Schema(
    GRAPH
    | {"position": pl.String, "source": pl.String, "statistic": pl.String, "unit": pl.String}
    | {"n": pl.Int64, "clusters": pl.Int64}
    | dict.fromkeys(("estimate", "ci_low", "ci_high", "p", "p_family", "q"), pl.Float64)
    | {"carried_by": pl.String, "caution": pl.String, "exact": pl.Float64}
    | {"exact_low": pl.Float64, "exact_high": pl.Float64}
)
"""One row per edge and position; `edge` is the `head` of its rows in SUMMARY. Intervals: of the strongest;
`exact`: by path patching, of those that --calibrate measured.
"""

PROMPTS = pl.Schema(
    dict.fromkeys(
        ("example_id", "group", "dataset", "prompt", "anti_prompt", "stereo", "anti", "suffix", "together"),
        pl.String,
    )
)
"""One row per example of a run: the texts whose continuations are compared; anti_prompt: that of `anti` where
it is not that of `stereo`, else null; examples with the same `together`, if it is not empty, are one.
"""

PATTERNS = pl.Schema(
    {"example_id": pl.String, "dataset": pl.String, "layer": pl.Int32, "head": pl.Int32, "node": pl.Int32}
    | {"token": pl.String, "weight": pl.Float32, "term": pl.Boolean}
)
"""One row per example, head and token of its prompt: the weight in [0, 1] with which the last token, the
readout, attends to it (null: not finite); node: the token's place, from 0; term: whether it is of the word
that the prompt is about. Weights of a prompt sum to 1.
"""

_ACTIVATIONS: dict[str, Any] = {"example_id": pl.String, **_SITE, "values": pl.List(pl.Float32)}
ACTIVATIONS = pl.Schema(_ACTIVATIONS)
"""One row per example, site and named position (last, term, mean); `values` has one length, fixed in the
file.
"""

PREDICTIONS = pl.Schema(
    {"item_id": pl.String, "example_id": pl.String, "group": pl.String, "layer": pl.Int32}
    | {"probe": pl.String, "fold": pl.Int32, "label": pl.Int32, "probability": pl.Float64}
)
"""One row per held-out input, probe and layer (a row of the residual stream; null: the bag of tokens)."""

BANDS = pl.Schema({"layer": pl.Int32, "shuffle": pl.Int32, "accuracy": pl.Float64})
"""One row per layer and set of shuffled labels."""

_PROBES: dict[str, Any] = {"layer": pl.Int32, "c": pl.Float64, "bias": pl.Float64}
PROBES = pl.Schema(_PROBES | {name: pl.List(pl.Float64) for name in ("weight", "mean", "scale")})
"""One row per layer: the probe fitted to all inputs, logit = weight · (x − mean) / scale + bias."""

_MEANS: dict[str, Any] = {
    "component": pl.String,
    "layer": pl.Int32,
    "first": pl.Boolean,
    "left_out": pl.Int32,
}
_MEANS["values"] = pl.List(pl.Float64)
MEANS = pl.Schema(_MEANS)
"""The dataset's mean activation at a whole hook point, flattened: at depth 0 (`first`) and over all other
nodes.

left_out: how many examples are in none of the means because their activations are not finite.
"""

_EDIT: dict[str, Any] = {"name": pl.String, "kind": pl.String, "role": pl.String, "of": pl.String}
EDITS = pl.Schema(
    _EDIT
    | {"draw": pl.Int32, "k": pl.Int32, "layer": pl.Int32, "at": pl.String, "dose": pl.Float64}
    | {"sites": pl.String, "digest": pl.String, "used": pl.Boolean}
)
"""One row per edit; role: own, or of a control (size, cost, labels, direction, place), `of` an own edit.

k: how many heads; at: the position an edit was fitted at; used: whether a control reached what it should.
"""

_FITS: dict[str, Any] = {"name": pl.String, "layer": pl.Int32, "component": pl.String, "head": pl.Int32}
_FITS |= {"scale": pl.Float64, "first": pl.Boolean}
FITS = pl.Schema(_FITS | dict.fromkeys(("left", "right", "bias"), pl.List(pl.Float64)))
"""The affine map of each own edit at each of its sites: x → scale · x − left (right · x) + bias."""

SUMMARY = pl.Schema(
    {"model": pl.String, "dataset": pl.String, "subset": pl.String, "method": pl.String, "source": pl.String}
    | {"metric": pl.String, "statistic": pl.String, "unit": pl.String}
    | _SITE
    | {
        "n": pl.Int64,
        "clusters": pl.Int64,
        "estimate": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
    }
    | {
        "p": pl.Float64,
        "p_family": pl.Float64,
        "q": pl.Float64,
        "carried_by": pl.String,
        "caution": pl.String,
    }
    | {
        "recovered": pl.Float64,
        "recovered_low": pl.Float64,
        "recovered_high": pl.Float64,
        "specificity": pl.Float64,
    }
)
"""One row per aggregate; sorted by the ranking statistic first, then |estimate| descending, null last.

p_family and q: of the ranking statistic of single sites and of containing hook points, two families (see
`schemas.mark`); null elsewhere. carried_by: the group without which the site does not pass; caution: why the
interval is less sure ("unequal groups", "skewed values"). recovered = estimate / the same statistic of the
total effect, with its 95 % interval; null unless the source is a twin and the interval of the total leaves
out 0. specificity: see `statistics.comparison`.
"""

DIFFERENCES = pl.Schema(
    {"dataset": pl.String, "subset": pl.String, "method": pl.String, "source": pl.String}
    | {"metric": pl.String, "statistic": pl.String, "unit": pl.String}
    | _SITE
    | {"n": pl.Int64, "clusters": pl.Int64, "first_estimate": pl.Float64, "second_estimate": pl.Float64}
    | {"estimate": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}
    | {"p": pl.Float64, "p_family": pl.Float64, "q": pl.Float64, "carried_by": pl.String}
    | {"caution": pl.String}
)
"""One row per statistic (and site) that two runs both have: estimate = the second's − the first's, paired."""

COVARIATES = pl.Schema({"group": pl.String, "name": pl.String, "key": pl.String, "value": pl.Float64})
"""One row per group and covariate of a run's data, that which slopes are on first."""

RELIABILITY = pl.Schema(
    {"model": pl.String, "dataset": pl.String, "method": pl.String, "source": pl.String, "metric": pl.String}
    | {
        "statistic": pl.String,
        "component": pl.String,
        "heads": pl.Boolean,
        "quantity": pl.String,
        "against": pl.String,
    }
    | {"unit": pl.String, "n": pl.Int64, "estimate": pl.Float64, "low": pl.Float64, "high": pl.Float64}
)
"""One row per number that says how far a ranking of sites of one kind can be trusted: see `reliability`."""

GROUPS = pl.Schema(
    {"group": pl.String, "source": pl.String, "position": pl.String, "n": pl.Int64, "lost": pl.Int64}
    | {"values": pl.List(pl.Float32)}
)
"""One row per group and block of a forest: the scores of all edges (or neurons), summed over n examples.

lost: examples of that block that are in no sum because their scores are not finite.
"""

CONDITIONAL = pl.Schema(
    {"round": pl.Int32, "gone_component": pl.String, "gone_layer": pl.Int32, "gone_head": pl.Int32}
    | {"component": pl.String, "layer": pl.Int32, "head": pl.Int32}
    | {"alone": pl.Float64, "alone_star": pl.Boolean}
    | dict.fromkeys(("estimate", "ci_low", "ci_high", "p", "p_family", "q"), pl.Float64)
    | {"carried_by": pl.String, "caution": pl.String, "star": pl.Boolean}
)
"""One row per site and candidate that was removed: its effect alone, and how much that changes (estimate)."""

LEVEL = 0.05
"""Family-wise level of a star, and one minus the coverage of every interval."""
STAR, CARRIED, DISPUTED, FAINT, UNEVEN = "*", "°", "†", "≈", "~"
LEGENDS = {
    STAR: "* p_family < 0.05, an interval without 0, and not the work of one group",
    CARRIED: "° passes the family-wise test, but not without one group",
    DISPUTED: "† passes the family-wise test, but its interval holds 0",
    FAINT: "≈ passes the family-wise test, but is below three noise floors of the model's precision",
    UNEVEN: "~ interval less sure: groups of very unequal size, or very skewed values",
}
"""The line that explains a mark, for those a table shows."""
FLOORS, BELOW = 3.0, "below the noise floor"
"""How many noise floors an effect with a star has at least, and the `caution` of others."""
NONE = "–"
"""Stands for a number that does not exist."""
SMALL = 1e-4
"""Below this a number is written with an exponent, and a p as "below": it is near the floor of its draws."""


def single_sites() -> pl.Expr:
    """Rows of heads, MLPs and other hook points, but not of a whole `z`, whose heads stand for themselves."""
    return (pl.col("component") != "z") | pl.col("head").is_not_null()


def heads_and_mlps() -> pl.Expr:
    """Rows of heads and MLPs. The other hook points contain them, and are a family of their own."""
    return (pl.col("component") == "mlp_out") | ((pl.col("component") == "z") & pl.col("head").is_not_null())


def family() -> pl.Expr:
    """The family of a row: `single` (heads and MLPs), `containing`, or of other components their name."""
    inside = pl.col("component").is_in([*INSIDE, EDGE])
    own = pl.when(heads_and_mlps()).then(pl.lit("single")).when(inside).then(pl.col("component"))
    return own.otherwise(pl.lit("containing"))


def starred() -> pl.Expr:
    """Rows whose mark is a star: "significant" means this, everywhere."""
    return (
        (pl.col("p_family") < LEVEL)
        & ((pl.col("ci_low") > 0) | (pl.col("ci_high") < 0))
        & pl.col("carried_by").is_null()
        & pl.col("caution").ne_missing(BELOW)
    ).fill_null(value=False)


def mark(row: Mapping[str, Any]) -> str:
    """The marks of a SUMMARY row: `*`, `°`, `†` or `≈` where it passes the family-wise test, then `~` where
    its interval is less sure.
    """
    passes = row["p_family"] is not None and row["p_family"] < LEVEL
    sure = (
        row["ci_low"] is not None and row["ci_high"] is not None and (row["ci_low"] > 0 or row["ci_high"] < 0)
    )
    faint = row["caution"] == BELOW
    kinds = ((not passes, ""), (not sure, DISPUTED), (faint, FAINT), (bool(row["carried_by"]), CARRIED))
    first = next((sign for holds, sign in kinds if holds), STAR)
    return first + (UNEVEN if row["caution"] and not faint and row["ci_low"] is not None else "")


def legend(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines that explain the marks of these rows, and no others; `°` names the groups."""
    rows = list(rows)
    shown = {sign for row in rows for sign in mark(row)}
    carriers = sorted({row["carried_by"] for row in rows if CARRIED in mark(row)})
    lines = {sign: line for sign, line in LEGENDS.items() if sign in shown}
    if carriers:
        lines[CARRIED] += f": {', '.join(carriers)}"
    return list(lines.values())


def number(value: float | None) -> str:
    """Three significant digits, and a dash for what does not exist."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0.000"
    if abs(value) >= SMALL:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{min(digits, 4)}f}".replace("-", "−")
    return f"{value:.0e}".replace("-", "−")
