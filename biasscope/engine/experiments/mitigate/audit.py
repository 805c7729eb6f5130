"""What an audit of the edited models finds: which heads carry the bias there, beside what they did before.

The numbers are those of `ablate` and, of the edited model, of `ablate --edit`, on the groups that judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from biasscope.engine.experiments.scans.ranked import RankedRun
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.statistics import mitigate as statistics
from biasscope.engine.statistics import summary
from biasscope.engine.types import Edit, Site, Unit

if TYPE_CHECKING:
    from biasscope.engine.measure.sources import Source
    from biasscope.engine.model.loading import LM
    from biasscope.engine.model.tokens import Forest

EXACT, ESTIMATES = "audit", "estimates"
"""The tables: of heads replaced in turn, and estimated; position: the edit's name."""


@dataclass(frozen=True)
class Audit:
    """The audit of some edits."""

    scan: Scan
    """Of all groups, of which means are made."""
    judged: Scan
    ranks: RankedRun
    heads: Sequence[Site]
    """Of the run."""
    count: int
    """How many heads, the strongest by estimate, are measured exactly; and as many, the strongest before."""

    def measure(self, edits: Sequence[Edit]) -> list[str]:
        """The names of the units with both tables."""
        (before,) = self.judged.measure([Unit("before", self._before)], None, prefix="audit-")
        first = self._strongest(self.judged.journal.get(before, EXACT))
        names = [before]
        for number, edit in enumerate(edits):
            names += self._after(edit, first, f"audit-{number:02}-")
        return names

    def _before(self) -> dict[str, pl.DataFrame]:
        """What the run measured of these heads and prompts in the model as it is."""
        judges = [e.id for e in self.judged.dataset.examples]
        rows = pl.scan_parquet(self.ranks.folder / "effects.parquet").filter(
            pl.col("example_id").is_in(judges),
            pl.col("head").is_not_null(),
            component="z",
            source=self.ranks.source,
            metric="target",
            position="all",
        )
        return {EXACT: _of(rows.collect(), statistics.CLEAN)}

    def _after(self, edit: Edit, first: Sequence[Site], prefix: str) -> list[str]:
        """The names of the units of one edited model: all heads estimated, the first ones measured."""
        from biasscope.engine.measure import attribution, exact
        from biasscope.engine.measure.sources import Sweep

        here, lm = self.judged, replace(self.scan.run.lm, edit=edit)
        source = self._source(lm, prefix)
        estimates = attribution.units(lm, self.single, Sweep(self.heads, source))
        names = here.measure(
            [_named(unit, ESTIMATES, edit) for unit in estimates], f"audit of {edit.name}", prefix=prefix
        )
        strongest = self._strongest(pl.concat(here.journal.tables(ESTIMATES, names)))
        chosen = sorted({*strongest, *first} - self._held(edit))
        sweep = Sweep(chosen, source, metrics=("target",))
        units = [_named(unit, EXACT, edit) for unit in exact.units(lm, self.packed, sweep, here.batch)]
        return names + here.measure(units, f"audit of {edit.name}", prefix=prefix)

    def _held(self, edit: Edit) -> set[Site]:
        """The heads that the edit holds at what would replace them: rounding alone would be measured."""
        return {
            site
            for site, affine in edit.at.items()
            if affine.scale == 0
            and affine.left is None
            and (self.ranks.source == "mean" or not affine.vectors)
        }

    def _source(self, lm: "LM", prefix: str) -> "Source":
        """What replaces a head, as in the run, made of the edited model."""
        from biasscope.engine.measure import sources

        if self.ranks.source != "mean":
            return sources.zero(lm)
        means = Unit("means", lambda: {"means": sources.means(lm, self.whole, self.heads)})
        (name,) = self.judged.measure([means], None, prefix=prefix)
        return sources.mean_of(lm, self.judged.journal.get(name, "means"))

    def _strongest(self, effects: pl.DataFrame) -> list[Site]:
        """The heads with the largest |ranking statistic|."""
        if effects.is_empty():
            return []
        return summary.top(summary.estimated(effects, self.judged.ungrouped), self.count)

    @cached_property
    def whole(self) -> "Forest":
        """All prompts of the run."""
        return self.scan.forest()

    @cached_property
    def packed(self) -> "Forest":
        """The prompts that judge."""
        return self.judged.forest()

    @cached_property
    def single(self) -> "Forest":
        """The same prompts, which share nothing."""
        return self.judged.forest(share="example")


def _of(effects: pl.DataFrame, name: str) -> pl.DataFrame:
    """The effects as those in the model that this edit stands in."""
    return effects.with_columns(position=pl.lit(name))


def _named(unit: Unit, table: str, edit: Edit) -> Unit:
    """The unit with its effects under the edit's name in that table."""
    return Unit(unit.name, lambda: {table: _of(unit.compute()["effects"], edit.name)})
