"""Races replayed on stored effects of a full scan, instead of a model."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from biasscope.engine.schemas import EFFECTS
from biasscope.engine.statistics.racing import Race
from biasscope.engine.types import Design

SITE = ("layer", "component", "head")


def effects(values: np.ndarray, sites: list[str] | None = None) -> pl.DataFrame:
    """EFFECTS of one example a group, `group site`; sites as L3H2 or L3.mlp, by default heads of layer 0."""
    names = sites or [f"L0H{i}" for i in range(values.shape[1])]
    groups = [f"g{i:03}" for i in range(len(values))]
    wide = pl.DataFrame(values, names, orient="row").with_columns(group=pl.Series(groups))
    rows = wide.unpivot(names, index="group", variable_name="site", value_name="effect")
    head = pl.col("site").str.extract(r"H(\d+)").cast(pl.Int32)
    component = pl.when(head.is_null()).then(pl.lit("mlp_out")).otherwise(pl.lit("z"))
    same = {"dataset": "d", "source": "zero", "metric": "target", "position": "all"}
    rows = rows.with_columns(
        **{name: pl.lit(value) for name, value in same.items()},
        example_id=pl.col("group"), head=head, component=component, baseline=pl.lit(0.0),
        layer=pl.col("site").str.extract(r"L(\d+)").cast(pl.Int32), value=pl.col("effect"),
    )  # fmt: skip
    return rows.select(EFFECTS.names()).cast(EFFECTS)


def design(x: np.ndarray | None, seed: int = 0) -> Design:
    """The design of groups with these covariates."""
    return Design(None if x is None else {f"g{i:03}": float(v) for i, v in enumerate(x)}, seed=seed)


def run(exact: pl.DataFrame, guess: pl.DataFrame, groups: Design, how: Mapping[str, float]) -> Race:
    """The race to its end, measurements taken from the full scan; how: k, miss."""
    race, measured = Race.of(guess, groups, int(how["k"]), how["miss"]), exact.clear()

    def measure(chosen: np.ndarray, seen: set[str]) -> None:
        nonlocal measured
        here = race.guess.sites.filter(chosen).select(SITE)
        more = exact.filter(pl.col("group").is_in(list(seen)))
        measured = pl.concat([measured, more.join(here, on=SITE, how="semi", nulls_equal=True)])
        race.look(measured)

    for number, seen in enumerate(race.looks):
        measure(race.racing, race.groups(race.looks[number - 1] if number else 0, seen))
        ahead = race.ahead(number)
        measure(ahead, race.groups(seen))
        race.settle(ahead)
        if not race.racing.any():
            break
    return race


def strongest(exact: pl.DataFrame, groups: Design, k: int) -> set[int]:
    """The k strongest sites of the full scan, by their place in a race's arrays."""
    whole = Race.of(exact, groups, k, 0.5)
    whole.look(exact)
    return set(np.argsort(-np.abs(whole.estimate))[:k].tolist())


def found(race: Race) -> set[int]:
    """The k strongest of the sites that a race measured whole."""
    whole = np.flatnonzero(race.whole)
    return set(whole[np.argsort(-np.abs(race.estimate[whole]))[: race.k]].tolist())
