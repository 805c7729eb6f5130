"""The steps of `patch`: the effect of every site, by gradients or exact, and the estimates' calibration."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine.errors import UsageError
from biasscope.engine.experiments import scan, selection, session, shown
from biasscope.engine.experiments.scan import Scan
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.settings import SILENT, Direction, Measure, Method, Patched, Voice
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.store import runs
from biasscope.engine.types import COMPONENTS, POSITIONS, Site

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
    voice: Voice = SILENT,
) -> runs.Result:
    """The effect of replacing every head, MLP, attention output and residual site."""
    if source != "corrupt" and (direction == "denoising" or steps):
        raise UsageError(
            "--direction denoising and --steps go from a prompt to its twin: they need --source corrupt, "
            f"not {source}"
        )
    if method == "exact" and (steps or calibrate):
        raise UsageError("--steps and --calibrate are about estimates: they need --method attribution")
    wanted = selection.Choice.parse(None, layers)
    where = {
        "components": selection.parse_words("--components", components, COMPONENTS),
        "layers": wanted.layers,
        "positions": selection.parse_words("--positions", positions, POSITIONS),
    }
    gone = selection.parse_sites("--given", given) if given else ()
    own = {"method": method, "source": source, "direction": direction, "steps": steps, "calibrate": calibrate}
    options = (
        own
        | {"components": components, "layers": layers, "positions": positions}
        | ({"given": given} if given else {})
    )
    run = session.start("patch", settings, options, voice)
    selection.early(session.shape(run), gone, wanted)
    for dataset in run.datasets:
        if source == "corrupt" and dataset.rule == "none":
            raise UsageError(f"{dataset.name} has no counterfactual twins; take --source mean")
    for each in scan.scans(run, **own, **where, **selection.in_identity(gone)):
        if not each.complete:
            _measure(each, own, where, gone)
        if not each.complete:  # a shard's run: the others measure the rest
            continue
        whole, trusted = scan.aggregated(each, "effects", method)
        shown.prompts(each, "effects")
        shown.patterns(each, whole, partial(each.standing, gone))
        each.save(*(_calibration(each, whole, trusted, calibrate) if calibrate else (whole, trusted)))
    return run.finish()


def _measure(each: Scan, own: dict[str, Any], where: dict[str, Any], gone: Sequence[Site]) -> None:
    """Measure what is not stored yet."""
    from biasscope.engine.measure import attribution, exact, sources

    lm, name, positions, exactly = each.run.lm, own["source"], where["positions"], own["method"] == "exact"
    single = selection.without(
        sources.sites(lm, where["components"], where["layers"]), selection.inside(lm, gone)
    )
    everywhere = positions == ("all",)
    forest = each.forest(
        share="all" if exactly and everywhere else "example",
        twins=name == "corrupt",
        positions=not everywhere,
    )
    for position in positions:
        if not everywhere and not any(prompt.part(position) for prompt in forest.prompts):
            raise UsageError(
                f"--positions {position} is no token of any prompt of {each.dataset.name}: the term "
                "ends each; take --positions term"
            )
    if own["direction"] == "denoising":
        forest, name = replace(forest, blocks=tuple(block.swapped() for block in forest.blocks)), "clean"
    sites = single if exactly else list(dict.fromkeys([*single, *map(sources.whole, single)]))
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
