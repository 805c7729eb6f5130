"""Random edits that cost what an edit costs: heads are added until kl on the choosing half reaches it, then
the dose is corrected.

The number of heads is found on a sample (one prompt a group), the dose on the whole half. A set of heads can
cost a tenth or ten times what another of its size costs, so the cost is measured, never assumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.experiments.mitigate.controls import COST, Controls
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.types import Edit

if TYPE_CHECKING:
    from biasscope.engine.model.tokens import Forest

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 36, 54, 80, 120, 180, 270, 400)
"""Numbers of random heads that are tried."""
CLOSE = 1.25
"""A cost counts as the edit's up to this factor."""
AMPLE = 1.2
"""So many times the edit's cost the heads must reach at dose 1 on the sample."""
ROUNDS = 4
"""How often a dose is tried."""
ATTEMPTS = 3
"""At most this times as many draws as are wanted."""
Draw = tuple[str, int]
"""An own edit's name and the number of a draw for it."""


@dataclass(frozen=True)
class Dosed:
    """Random heads that are tried for an own edit."""

    kind: str
    k: int
    dose: float


def costs(effects: pl.DataFrame) -> dict[str, float]:
    """Edit → its mean kl, nats."""
    rows = effects.filter(metric="kl").group_by("position").agg(pl.col("value").mean()).sort("position")
    return dict(rows.iter_rows())


@dataclass(frozen=True)
class Matching:
    """The search for random edits of equal cost."""

    controls: Controls
    effects: pl.DataFrame
    """EFFECTS of the own edits on the choosing half."""

    @property
    def here(self) -> Scan:
        """The scan of the choosing half."""
        return self.controls.fit.here

    @cached_property
    def sample(self) -> Scan:
        """One prompt of each group of the choosing half."""
        data = self.here.dataset
        groups = len({e.group for e in data.examples})
        some = datasets.sample(data.examples, groups, self.here.run.options.seed)
        return self.here.beside(replace(data, examples=some, whole=data.whole or data.examples), "sample-")

    @cached_property
    def forests(self) -> dict[str, "Forest"]:
        """The prefix of a scan → its prompts as a forest."""
        return {here.prefix: here.forest() for here in (self.here, self.sample)}

    @cached_property
    def target(self) -> Mapping[str, float]:
        """Own edit → its kl on the choosing half."""
        return costs(self.effects)

    @cached_property
    def target_sample(self) -> Mapping[str, float]:
        """Own edit → its kl on the sample."""
        known = [e.id for e in self.sample.dataset.examples]
        return costs(self.effects.filter(pl.col("example_id").is_in(known)))

    def matched(self) -> list[Edit]:
        """The controls of cost that reach it, in the order of the own edits; the rows of all are noted."""
        controls, n = self.controls, self.controls.n
        found: dict[str, list[Edit]] = {own.name: [] for own in controls.own}
        for attempt in range(ATTEMPTS):
            first = attempt * n
            lacking = {name: n - len(edits) for name, edits in found.items() if len(edits) < n}
            draws = [(name, first + i) for name, count in lacking.items() for i in range(count)]
            for (name, _), edit in self._attempt(draws, f"{attempt}-").items():
                found[name].append(edit)
        return [edit for edits in found.values() for edit in edits]

    def _attempt(self, draws: Sequence[Draw], prefix: str) -> dict[Draw, Edit]:
        """Of these draws those that reach the cost of their own edit, with their edits."""
        open_, found = self._sized(draws, prefix), dict[Draw, Edit]()
        for turn in range(ROUNDS):
            tried = {draw: self._edit(draw, dosed) for draw, dosed in open_.items()}
            kl = self._measured(self.here, list(tried.values()), f"cost-{prefix}{turn}-")
            dosed_next = {}
            for draw, dosed in open_.items():
                share = kl[tried[draw].name] / self.target[draw[0]]
                if 1 / CLOSE < share < CLOSE:
                    found[draw] = self._keep(draw, dosed)
                elif (better := min(1.0, dosed.dose * share**-0.5)) != dosed.dose and turn < ROUNDS - 1:
                    dosed_next[draw] = replace(dosed, dose=better)
                else:
                    self._keep(draw, dosed, used=False)
            open_ = dosed_next
        return {draw: found[draw] for draw in draws if draw in found}

    def _sized(self, draws: Sequence[Draw], prefix: str) -> dict[Draw, Dosed]:
        """How many heads of a draw cost enough, and the dose at which they cost what the edit does.

        A draw that costs too little with all of its heads is noted, not used.
        """
        kinds = {own.name: "zero" if own.kind == "zero" else "mean" for own in self.controls.own}
        open_, sized = list(draws), dict[Draw, Dosed]()
        available = len(self.controls.others)
        for k in [*(k for k in STEPS if k < available), *([available] if available else [])]:
            singles = sorted({(kinds[name], draw) for name, draw in open_})
            sets = {
                single: Edit(
                    self.controls.random_heads(*single, k, 1.0), f"{single[0]}-{single[1]}-{k}", single[0]
                )
                for single in singles
            }
            kl = self._measured(self.sample, list(sets.values()), f"grow-{prefix}{k}-")
            for name, draw in open_:
                cost, wanted = kl[sets[kinds[name], draw].name], self.target_sample[name]
                if cost >= AMPLE * wanted > 0:
                    sized[name, draw] = Dosed(kinds[name], k, (wanted / cost) ** 0.5)
            open_ = [each for each in open_ if each not in sized]
        for each in open_:
            self._keep(each, Dosed(kinds[each[0]], available, 1.0), used=False)
        return sized

    def _edit(self, draw: Draw, dosed: Dosed) -> Edit:
        at = self.controls.random_heads(dosed.kind, draw[1], dosed.k, dosed.dose)
        return Edit(at, f"{draw[0]}.{COST}-{draw[1]:02d}", dosed.kind, dosed.dose)

    def _keep(self, draw: Draw, dosed: Dosed, *, used: bool = True) -> Edit:
        own = next(own for own in self.controls.own if own.name == draw[0])
        about = {
            "kind": dosed.kind,
            "k": dosed.k,
            "dose": dosed.dose,
            "layer": None,
            "at": None,
            "used": used,
        }
        return self.controls.kept(dict(self._edit(draw, dosed).at), own, COST, draw[1], **about)

    def _measured(self, here: Scan, wanted: Sequence[Edit], prefix: str) -> dict[str, float]:
        """The mean kl of each of these edits over a scan's prompts."""
        from biasscope.engine.measure import edits

        if not wanted:
            return {}
        forest = self.forests[here.prefix]
        units = edits.units(here.run.lm, forest, wanted, here.batch, ("kl",))
        names = here.measure(units, "random edits of equal cost", prefix=prefix)
        return costs(pl.concat(here.journal.tables("effects", names)))
