"""The steps of `mitigate`: edits fitted on one half of the groups and judged on the other, with controls."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError
from biasscope.engine.experiments.circuit import halves
from biasscope.engine.experiments.mitigate.audit import ESTIMATES, EXACT, Audit
from biasscope.engine.experiments.mitigate.controls import Controls
from biasscope.engine.experiments.mitigate.fitting import Fitting
from biasscope.engine.experiments.mitigate.matching import Matching
from biasscope.engine.experiments.mitigate.wanted import Wanted
from biasscope.engine.experiments.scans import session
from biasscope.engine.experiments.scans.ranked import RankedRun, find
from biasscope.engine.experiments.scans.scan import Scan, scans
from biasscope.engine.settings import KINDS, SILENT, Measure, Voice
from biasscope.engine.statistics import baseline
from biasscope.engine.statistics import mitigate as statistics
from biasscope.engine.store import runs
from biasscope.engine.types import Dataset, Design, Edit, Unit

if TYPE_CHECKING:
    from biasscope.engine.model.tokens import Forest

JUDGED = "judged"
"""The fact that names the groups of the half that judges."""


def mitigate(settings: Measure, run: str, *, wanted: Wanted = Wanted(), voice: Voice = SILENT) -> runs.Result:
    """What edits of that run's model take of its bias, what they cost, and what random edits do."""
    ranks = find(settings, run)
    if ranks.record.command != "ablate" or ranks.source not in ("mean", "zero") or ranks.options.edit:
        raise DataError(
            f"{ranks.folder} is no run of ablate with --source mean or zero on the model as it is; an edit "
            "is made from one"
        )
    running = session.start("mitigate", ranks.options, {"from": run} | wanted.options(), voice)
    ranks.check(running)
    (data,) = running.datasets
    wanted.kinds(data)
    other, facts = wanted.elsewhere(data, running.options), _facts(running, data)
    if other is None and wanted.transfer is None:
        voice.note(f"{data.name}: judged on no other data set; --transfer NAME adds one")
    asked = wanted.identity(data, other, facts)
    for each in scans(running, **{"from": ranks.key}, wanted=asked):
        if not each.complete:
            Steps(each, ranks, wanted).measure(other, facts)
        each.table("fits")
        each.save(summary(each, [other] if other else []))
    return running.finish()


def _facts(run: session.Running, data: Dataset) -> Dataset | None:
    """Prompts in which gender is a fact; None where the data are about something else."""
    if any(e.bias_type != "gender" for e in data.examples):
        return None
    return datasets.load(statistics.FACTUAL, run.options.data_dir)


class Steps:
    """The steps on one data set."""

    def __init__(self, scan: Scan, ranks: RankedRun, wanted: Wanted) -> None:
        self.scan, self.ranks, self.wanted = scan, ranks, wanted
        self.choosing, self.judged = halves(scan, ranks, "judged-")
        self.fit = Fitting(self.choosing, ranks, wanted, wanted.kinds(scan.dataset))

    def measure(self, other: Dataset | None, facts: Dataset | None) -> None:
        """Measure what is not stored yet."""
        self.fit.depths  # noqa: B018  refused before anything is measured
        if any(KINDS[kind].heads for kind in self.fit.kinds):
            self.fit.sizes  # noqa: B018
        if how := self.ranks.chosen():
            self.scan.warn(f"the run chose its heads on all groups ({how}); their order alone is held out")
        judging = self.judged.forest()
        self.scan.journal.decide(JUDGED, sorted({e.group for e in self.judged.dataset.examples}))
        own, about = self.fit.stored()
        names = [f"{self.choosing.prefix}fits"]
        names += self._effects(self.choosing, self.choosing.forest(), own, "edits, choosing half")
        chosen = names[1:]
        judged = self._effects(self.judged, judging, own, "edits, judged half")
        names += judged
        main = [edit for edit in own if edit.dose in self.wanted.main(edit.kind)]
        if other is not None:
            names += self._transferred(other, main)
        if facts is not None:
            here = self.scan.beside(facts, "facts-")
            names += self._effects(here, here.forest(), main, "edits, facts")
        names += self._text(main)
        if self.wanted.random and not self._nothing_to_lower(judged):
            names += self._controls(main, about, chosen, judging)
        if self.wanted.audit:
            names += Audit(self.scan, self.judged, self.ranks, self.fit.heads, self.wanted.audit).measure(
                main
            )
        outside = len(self.scan.dataset.examples) - len(self.judged.dataset.examples)
        dropped = judging.dropped + Counter({"its group chose the edits": outside})
        self.scan.close(judging.examples, names, dropped, judging.partly)

    def _effects(self, here: Scan, forest: "Forest", wanted: Sequence[Edit], label: str) -> list[str]:
        from biasscope.engine.measure import edits

        units = edits.units(here.run.lm, forest, wanted, self.scan.batch)
        return here.measure(units, label, prefix="own-")

    def _nothing_to_lower(self, judged: Sequence[str]) -> bool:
        """Whether the clean number on the half that judges may be 0: said, for then no edit has a verdict."""
        effects = pl.concat(self.scan.journal.tables("effects", judged)).lazy()
        if why := baseline.nothing_to_find(effects, self.judged.ungrouped):
            self.scan.warn(f"the half that judges: {why}; edits have no verdict, and no random ones are made")
        return why is not None

    def _transferred(self, other: Dataset, main: Sequence[Edit]) -> list[str]:
        """The edits' effects on other data, without the groups that they were fitted to."""
        chose = {e.group for e in self.choosing.dataset.examples}
        groups = {e.group for e in other.examples} - chose
        if not groups:
            self.scan.warn(
                f"{other.name} has no group beside those that the edits were fitted to: not judged there"
            )
            return []
        here = self.scan.beside(other.part(other.name, groups), "transfer-")
        return self._effects(here, here.forest(), main, f"edits, {other.name}")

    def _text(self, main: Sequence[Edit]) -> list[str]:
        from biasscope.engine.measure import edits

        lm = self.scan.run.lm
        forest = edits.text(lm, self.wanted.paragraphs, self.wanted.count)
        units = edits.loss_units(lm, forest, main, self.scan.batch)
        return self.scan.measure(units, "edits, loss on text", prefix="text-")

    def _controls(
        self, main: Sequence[Edit], about: pl.DataFrame, chosen: Sequence[str], judging: "Forest"
    ) -> list[str]:
        """The names of the units with the controls and their effects on the judged half."""
        from biasscope.engine.measure import edits

        rows = {row["name"]: row for row in about.iter_rows(named=True)}
        controls = Controls(self.fit, main, rows)
        made = controls.made()
        effects = pl.concat(self.scan.journal.tables("effects", chosen))
        made += Matching(controls, effects).matched()
        units = edits.units(self.scan.run.lm, judging, made, self.scan.batch, ("target", "kl"))
        names = self.judged.measure(units, "random edits", prefix="random-")
        return names + self.scan.measure([Unit("controls", lambda: {"edits": controls.table()})], None)


def summary(scan: Scan, others: Sequence[Dataset]) -> pl.DataFrame:
    """SUMMARY of the run's edits."""
    effects, edits = scan.table("effects").collect(), scan.table("edits").collect()
    seed = scan.run.options.seed
    designs = {
        data.examples[0].dataset: Design(data.covariate, seed=seed) for data in (scan.dataset, *others)
    }
    study = statistics.Study(effects, edits, designs, frozenset(scan.journal.facts[JUDGED]), scan.run.slug)
    units = scan.journal.facts["finished"]["units"]
    if estimates := list(scan.journal.tables(ESTIMATES, units)):
        study = replace(study, audit=scan.table(EXACT).collect(), estimates=pl.concat(estimates))
    with scan.run.phase("statistics"):
        return statistics.summarise(study)
