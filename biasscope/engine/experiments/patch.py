"""The steps of `patch`: the effect of every site, by gradients or exact, and the estimates' calibration."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.between import edges, neurons
from biasscope.engine.experiments.between import mib as exchange
from biasscope.engine.experiments.between.edges import Asked
from biasscope.engine.experiments.scans import models, scan, selection, session, shown
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.settings import SILENT, Direction, Dtype, Measure, Method, Patched, Voice
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.store import runs
from biasscope.engine.types import COMPONENTS, INSIDE, POSITIONS, Site

if TYPE_CHECKING:
    from biasscope.engine.measure.sources import Sweep
    from biasscope.engine.model.tokens import Forest


def patch(
    settings: Measure,
    *,
    method: Method = "attribution",
    source: Patched = "corrupt",
    direction: Direction = "noising",
    components: str = ",".join(COMPONENTS),
    layers: str | None = None,
    positions: str = "all",
    given: str | None = None,
    steps: int | None = None,
    calibrate: int | None = None,
    mib: Path | None = None,
    voice: Voice = SILENT,
) -> runs.Result:
    """The effect of replacing every head, MLP, attention output and residual site."""
    at = selection.parse_words("--positions", positions, POSITIONS)
    wanted = selection.parse_words("--components", components, (*COMPONENTS, *INSIDE))
    choice, ranged = selection.Choice.parse(None, layers), bool(layers)
    if source != "corrupt" and (direction == "denoising" or steps):
        raise UsageError(
            "--direction denoising and --steps go from a prompt to its twin: they need --source corrupt, "
            f"not {source}"
        )
    estimates = bool(steps or calibrate)
    _refuse(method, wanted, estimates=estimates, ranged=ranged, given=bool(given))
    if mib is not None:
        exchange.refuse_other_edges(method, settings, at)
    where = {"components": wanted, "layers": choice.layers, "positions": at}
    gone = selection.parse_sites("--given", given) if given else ()
    own = {"method": method, "source": source, "direction": direction, "steps": steps, "calibrate": calibrate}
    options = (
        own
        | {"components": components, "layers": layers, "positions": positions}
        | ({"given": given} if given else {})
    )
    run = session.start("patch", settings, options, voice)
    selection.early(models.shape(run.weights, run.options.model), gone, choice)
    if source == "corrupt":
        _refuse_no_twins(run)
    asked = Asked(source, direction, at, steps, calibrate)
    for each in scan.scans(run, **own, **where, **selection.in_identity(gone)):
        if method == "edges":
            edges.patch(each, asked)
            continue
        if wanted == ("neuron",):
            neurons.patch(each, asked, choice.layers)
            continue
        if not each.complete:
            _measure(each, own, where, gone)
        if not each.complete:  # a shard's run: the others measure the rest
            continue
        whole, trusted = shown.aggregated(each, "effects", method)
        shown.prompts(each, "effects")
        shown.patterns(each, whole, partial(each.standing, gone))
        each.save(*(_calibration(each, whole, trusted, calibrate) if calibrate else (whole, trusted)))
    result = run.finish()
    if mib is not None:
        exchange.write(Path(mib), result.record, Path(result.record.datasets[0].path))
    return result


def _refuse_no_twins(run: session.Running) -> None:
    for dataset in run.datasets:
        if dataset.rule == "none":
            raise UsageError(f"{dataset.name} has no counterfactual twins; take --source mean")


def _refuse(method: Method, wanted: Sequence[str], **chosen: bool) -> None:
    """Raise UsageError for choices that do not go together."""
    if method == "exact" and chosen["estimates"]:
        raise UsageError("--steps and --calibrate are about estimates: take --method attribution or edges")
    if method == "edges" and (wanted != COMPONENTS or chosen["ranged"] or chosen["given"]):
        raise UsageError("--method edges is over all edges: leave out --components, --layers and --given")
    if "neuron" in wanted and (len(wanted) > 1 or method == "exact" or chosen["given"]):
        raise UsageError(
            "neurons are a run of their own, estimated: --components neuron alone, without --method exact "
            "and --given; exact effects of the strongest: --calibrate N"
        )


def _measure(each: Scan, own: dict[str, Any], where: dict[str, Any], gone: Sequence[Site]) -> None:
    """Measure what is not stored yet."""
    from biasscope.engine.measure import attribution, exact, sources
    from biasscope.engine.measure.between import attention

    attention.check(each.run.lm, where["components"], exact=own["method"] == "exact")
    lm, name, positions, exactly = each.run.lm, own["source"], where["positions"], own["method"] == "exact"
    single = selection.without(
        sources.sites(lm, where["components"], where["layers"]), selection.inside(lm, gone)
    )
    if not exactly and each.run.options.dtype is not Dtype.FLOAT32:
        each.warn("the noise floor of estimates is not known in this precision; --method exact measures it")
    asked = Asked(name, own["direction"], positions, own["steps"], own["calibrate"])
    forest, name = asked.forest(each, "all" if exactly and positions == ("all",) else "example")
    wholes = [sources.whole(site) for site in single if not exactly and site.component not in INSIDE]
    sites = list(dict.fromkeys([*single, *wholes]))
    sweep = sources.Sweep(
        sites, each.source(name, forest, sites), positions, ("target",), each.standing(gone)
    )
    units = (
        exact.units(lm, forest, sweep, each.batch)
        if exactly
        else attribution.units(lm, forest, sweep, own["steps"])
    )
    names = each.measure(units, f"{own['method']} ({name})")
    if own["calibrate"]:
        names += _calibrated(each, names, own["calibrate"], forest, sweep)
    each.close(forest.examples, names, forest.dropped, forest.partly)


def _calibrated(each: Scan, names: list[str], n: int, forest: "Forest", sweep: "Sweep") -> list[str]:
    """The names of the units that hold the exact effects of the first n and n random sites of each kind."""
    from biasscope.engine.measure import exact

    run = each.run
    with run.phase("attribution"):
        effects = pl.concat(each.journal.tables("effects", names))
        estimates = summary.estimated(effects, each.ungrouped)
    sites = sorted(site for part in summary.chosen(estimates, n, run.options.seed) for site in part)
    units = exact.units(run.lm, forest, replace(sweep, sites=sites), each.batch)
    return each.measure(units, f"exact ({sweep.source.name})", prefix="exact-", table="exact")


def _calibration(each: Scan, estimates: pl.DataFrame, trusted: pl.DataFrame, n: int) -> scan.Aggregates:
    """The aggregates with exact effects of the first n and n random sites of each kind beside them."""
    effects = each.table("exact")
    with each.run.phase("statistics"):
        exact = summary.summarise(effects, model=each.run.slug, method="exact", design=each.design)
        # chosen by the estimates of the same examples: no family that a star could be about
        exact = exact.with_columns(
            pl.lit(None, SUMMARY[name]).alias(name) for name in ("p_family", "q", "carried_by")
        )
        _, others = summary.chosen(estimates, n, each.run.options.seed)
        agreement = reliability.calibration(estimates, exact, others)
        return pl.concat([estimates, exact]), pl.concat([trusted, agreement])
