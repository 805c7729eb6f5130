"""The steps of `ablate`: the exact sweep over sites, each source in turn, and the control."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.experiments import adaptive as down_ranking
from biasscope.engine.experiments.between import conditional as behind
from biasscope.engine.experiments.scans import models, scan, selection, session, shown
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.settings import SILENT, Control, Measure, Ranking, Replaced, Voice
from biasscope.engine.statistics import comparison, summary
from biasscope.engine.store import runs
from biasscope.engine.types import Dataset, Design, Edit, Site

EVERY = ("mean", "zero", "resample")
"""The sources of `all`."""


def ablate(
    settings: Measure,
    *,
    source: Replaced = "mean",
    heads: str | None = None,
    layers: str | None = None,
    top: int | None = None,
    by: Ranking = "attribution",
    given: str | None = None,
    adaptive: bool = False,
    miss: float = 0.02,
    conditional: bool = False,
    rounds: int = 3,
    control: Control | None = None,
    voice: Voice = SILENT,
) -> runs.Result:
    """What replacing every head and MLP in turn changes, exactly."""
    other = bool(given or control or source == "all")
    _refuse(adaptive=adaptive, conditional=conditional, whole=other, top=bool(top))
    chosen = selection.Choice.parse(heads, layers)
    gone = selection.parse_sites("--given", given) if given else ()
    selection.apart(chosen, gone)
    own: dict[str, Any] = {"source": source, "heads": heads, "layers": layers, "top": top}
    own["by"] = by if top and not adaptive else None
    own |= {"given": given, "adaptive": adaptive, "miss": miss if adaptive else None, "control": control}
    own |= {"conditional": True, "rounds": rounds} if conditional else {}
    run = session.start("ablate", settings, own, voice)
    selection.early(models.shape(run.weights, run.options.model), gone, chosen)
    choice = {name: own[name] for name in ("top", "by", "adaptive", "miss")}
    choice |= {"adaptive": "racing"} if adaptive else {}
    choice |= {"conditional": rounds} if conditional else {}
    choice |= {"heads": chosen.heads, "layers": chosen.layers, "given": list(map(str, gone))}
    facts = datasets.load(control, settings.data_dir) if control else None
    if facts:
        _refuse_other_kinds(run, facts)
    for each in scan.scans(run, source=source, sites=choice, control=facts and [facts.name, facts.digest]):
        if not each.complete:
            sites = selection.without(chosen.sites(run.lm), selection.inside(run.lm, gone))
            if conditional:
                behind.measure(each, sites, source, rounds)
            elif adaptive:
                down_ranking.measure(each, sites, source, top or down_ranking.STRONGEST, miss)
            else:
                sources = EVERY if source == "all" else (source,)
                _measure(
                    each, sites if top is None else _ranked(each, sites, sources, top), sources, gone, facts
                )
        if conditional:
            each.save(*behind.aggregated(each))
            continue
        if not each.complete:  # a shard's run: the others measure the rest
            continue
        whole, trusted = _controlled(each) if facts else shown.aggregated(each, "effects", "exact")
        shown.prompts(each, "effects")
        shown.patterns(each, whole, partial(_standing, each, gone, EVERY[0] if source == "all" else source))
        if adaptive:
            whole = pl.concat([whole, down_ranking.given_up(each, source)])
            trusted = down_ranking.reported(each, trusted)
        each.save(whole, trusted)
    return run.finish()


def _standing(each: Scan, gone: tuple[Site, ...], source: str) -> Edit:
    """The edit that replaces these sites throughout, as in the sweep of that source."""
    if source == "mean" or not gone:
        return each.standing(gone)
    from biasscope.engine.measure.sources import removed

    return removed(gone, each.source(source, each.forest(), gone))


def _refuse(*, adaptive: bool, conditional: bool, whole: bool, top: bool) -> None:
    """Raise UsageError for choices that do not go together; `whole`: those of another model or source."""
    if adaptive and whole:
        raise UsageError(
            "--adaptive measures one source on the whole model: it does not go with --given, --control or "
            "--source all"
        )
    if conditional and (whole or top or adaptive):
        raise UsageError(
            "--conditional measures one source with sites removed in turn: it does not go with --given, "
            "--control, --source all, --top or --adaptive"
        )


def _refuse_other_kinds(run: session.Running, facts: Dataset) -> None:
    for dataset in run.datasets:
        if all(e.bias_type != "gender" for e in dataset.examples):
            types = ", ".join(sorted({e.bias_type for e in dataset.examples}))
            raise UsageError(
                f"--control {facts.name}: factual gender is no control for {types} ({dataset.name})"
            )


def _measure(
    each: Scan, sites: list[Site], sources: tuple[str, ...], gone: tuple[Site, ...], facts: Dataset | None
) -> None:
    """Measure what is not stored yet."""
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep, removed

    forest, names = each.forest(), []
    for name in sources:
        source = each.source(name, forest, [*sites, *gone])
        units = exact.units(each.run.lm, forest, Sweep(sites, source, edit=removed(gone, source)), each.batch)
        names += each.measure(units, f"ablate ({name})", prefix=f"{name}-")
    if facts:
        names += _on_control(each.beside(facts), sites, sources, gone)
    each.close(forest.examples, names, forest.dropped, forest.partly)


def _ranked(each: Scan, sites: Sequence[Site], sources: Sequence[str], top: int) -> list[Site]:
    """The first `top` of the sites by attribution with the first source, in the model's order."""
    estimates = down_ranking.estimated(each, sites, sources)
    return sorted([site for site in summary.top(estimates, estimates.height) if site in set(sites)][:top])


def _on_control(
    each: Scan, sites: Sequence[Site], sources: Sequence[str], given: Sequence[Site]
) -> list[str]:
    """The names of the units with the same sites' effects on the control, each source made of its prompts."""
    from biasscope.engine.measure import exact
    from biasscope.engine.measure.sources import Sweep, removed

    forest, names = each.forest(), []
    for name in sources:
        source = each.source(name, forest, [*sites, *given], "control-")
        sweep = Sweep(sites, source, metrics=("target",), edit=removed(given, source))
        units = exact.units(each.run.lm, forest, sweep, each.batch)
        names += each.measure(units, f"control ({name})", prefix=f"control-{name}-", table="control")
    return names


def _controlled(each: Scan) -> scan.Aggregates:
    """The aggregates of an exact scan with a control, which gives every site's specificity."""
    whole, trusted = shown.aggregated(each, "effects", "exact")
    effects, design = each.table("control"), Design(seed=each.run.options.seed)
    with each.run.phase("statistics"):
        control = summary.summarise(effects, model=each.run.slug, method="exact", design=design)
        return comparison.specificity(whole, control), trusted
