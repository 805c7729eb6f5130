"""The steps of `probe` on one dataset: inputs, their activations, probes, what removing directions does."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.scans import models, selection, session
from biasscope.engine.experiments.scans.scan import Scan, scans
from biasscope.engine.measure import probes
from biasscope.engine.model import devices
from biasscope.engine.settings import SILENT, Holdout, Measure, Negatives, Read, Stream, Task, Voice
from biasscope.engine.statistics import probes as probe_statistics
from biasscope.engine.statistics.summary import summarise
from biasscope.engine.store import digests, files, journal, runs
from biasscope.engine.types import Dataset, Edit, Site, Split, Unit


def probe(
    settings: Measure,
    *,
    task: Task = "auto",
    negatives: Negatives = "anti",
    site: Stream = "resid",
    position: Read = "last",
    split: Holdout = "kfold",
    causal: bool = False,
    given: str | None = None,
    voice: Voice = SILENT,
) -> runs.Result:
    """Where bias is linearly readable, layer by layer."""
    if causal and site != "resid":
        raise UsageError(
            f"--causal removes a direction from the residual stream: it needs --site resid, not {site}"
        )
    parameters = {"task": task, "negatives": negatives, "site": site, "position": position, "split": split}
    gone = selection.parse_sites("--given", given) if given else ()
    options = parameters | {"causal": causal} | ({"given": given} if given else {})
    run = session.start("probe", settings, options, voice)
    selection.early(models.shape(run.weights, run.options.model), gone)
    # refused before a model is loaded
    tasks = {dataset.name: task_of(dataset, task) for dataset in run.datasets}
    for each in scans(run, **parameters, causal=causal, **selection.in_identity(gone)):
        chosen = tasks[each.dataset.name]
        if not each.complete:
            measure(each, chosen, options, gone)
        each.save(summary(each, chosen, site, position, causal=causal))
        write_weights(each)
    return run.finish()


def task_of(dataset: Dataset, task: str) -> str:
    """The task, `auto` resolved to the dataset's own. UsageError where it is not defined for the dataset."""
    chosen = probes.default(dataset) if task == "auto" else task
    probes.check(chosen, dataset)
    return chosen


def measure(scan: Scan, chosen: str, options: Mapping[str, Any], gone: Sequence[Site]) -> None:
    """Measure what is not stored yet."""
    from biasscope.engine.measure import activations

    lm, names, edit = scan.run.lm, [], scan.standing(gone)
    target = None
    if chosen == "lean":
        names += scan.measure(_scores(scan, edit), "baseline", prefix="clean-")
        target = _targets(scan, names)
    inputs, lost = probes.inputs(chosen, scan.dataset, options["negatives"], target)
    read = {item.id: activations.text(lm, item.id, item.words, item.term) for item in inputs}
    for item in inputs:  # an example keeps both of its inputs or none
        text = read[item.id]
        if isinstance(text, str) or (options["position"] == "term" and text.term is None):
            lost[item.example_id] = text if isinstance(text, str) else "its text does not name the term"
    kept = [item for item in inputs if item.example_id not in lost]
    layers: dict[int, np.ndarray] = {}
    if kept:
        layers = _activations(scan, [read[item.id] for item in kept], options, edit)
        finite = np.all([np.isfinite(x).all(1) for x in layers.values()], axis=0)
        lost |= {
            item.example_id: activations.NOT_FINITE
            for item, sound in zip(kept, finite, strict=True)
            if not sound
        }
        stays = np.array([item.example_id not in lost for item in kept])
        kept, layers = (
            [item for item in kept if item.example_id not in lost],
            {row: x[stays] for row, x in layers.items()},
        )
    dropped = _warn_of_dropped(scan, lost)
    if not kept:
        raise DataError(
            f"{scan.dataset.name}: no input for a probe is left: "
            f"{', '.join(f'{n} × {r}' for r, n in dropped.items())}"
        )
    tokens = [text.ids for item in kept if not isinstance(text := read[item.id], str)]
    split = Split(options["split"], probes.LEVELS[chosen], scan.run.options.seed)
    with probes.workers(sum(x.size for x in layers.values())) as pool:
        units = probes.units(layers, scan.journal.units, kept, split, pool)
        names += scan.measure([*units, probes.bag(tokens, kept, split)], "probes")
    if options["causal"]:
        names += _causal(scan, options["site"], edit)
    scan.close([e for e in scan.dataset.examples if e.id not in lost], names, dropped)


def _warn_of_dropped(scan: Scan, lost: dict[str, str]) -> Counter[str]:
    """Warn of the dropped examples, a line per reason; returns how many there are of each."""
    dropped = Counter(lost.values())
    for reason, n in dropped.items():
        scan.warn(f"{n} of {len(scan.dataset.examples)} examples dropped: {reason}")
    return dropped


def _scores(scan: Scan, edit: Edit) -> list[Unit]:
    """The clean model's scores, which `lean` takes its labels from."""
    from biasscope.engine.measure import baseline

    units = baseline.units(scan.run.lm, scan.forest(), edit)
    return [Unit(u.name, lambda u=u: {"scores": u.compute()["scores"]}) for u in units]  # type: ignore[misc]


def _targets(scan: Scan, names: Sequence[str]) -> dict[str, float]:
    rows = pl.concat(scan.journal.tables("scores", names)).filter(pl.col("metric") == "target")
    return dict(rows.select("example_id", "value").iter_rows())


def _activations(
    scan: Scan, texts: Sequence[Any], options: Mapping[str, Any], edit: Edit
) -> dict[int, np.ndarray]:
    """Row of the result → activations of the texts, from a store that every probe of these texts shares."""
    from biasscope.engine.measure import activations

    run, component, position = scan.run, options["site"], options["position"]
    content = digests.digest([[text.id, list(text.ids), text.term] for text in texts])
    model = {"name": run.options.model, "revision": run.weights.revision, "digest": run.weights.digest}
    how = {"dtype": run.options.dtype.value, "device": run.device, "site": component, "position": position}
    how |= devices.in_identity(run.device, run.options.dtype.value)
    how |= selection.in_identity(list(edit.at)) | (
        {"examples": [e.id for e in scan.dataset.examples]} if edit.at else {}
    )
    how |= {} if run.edit is None else {"edit": run.edit.digest}
    identity = journal.identity(
        "activations", model=model, tokenizer=run.weights.tokenizer_digest, content=content, **how
    )
    rows = [(site.component, site.layer) for site in activations.sites(run.lm, component)]
    with journal.opened(scan.journal.folder.parent, identity, wait=True) as opened:
        shared = replace(scan, journal=opened)
        shared.resume()
        names = shared.measure(activations.units(run.lm, texts, component, position, edit), "encode")
        return probes.matrices(opened.tables("activations", names), rows, [text.id for text in texts])


def _causal(scan: Scan, component: str, edit: Edit) -> list[str]:
    """The names of the units that hold what removing each layer's direction does."""
    from biasscope.engine.measure import activations, directions, linear

    removals = []
    for row, site in enumerate(activations.sites(scan.run.lm, component)):
        kept = scan.journal.get(f"probe-L{row:03}", "probes").row(0, named=True)
        direction = linear.direction(np.array(kept["weight"]), np.array(kept["scale"]))
        vectors = np.vstack([direction, directions.drawn(len(direction), row, scan.run.options.seed)])
        removals.append(directions.Removal(f"remove-L{row:03}", site, vectors, np.array(kept["mean"])))
    return scan.measure(
        directions.units(scan.run.lm, scan.forest(), removals, edit, scan.batch), "removing directions"
    )


def summary(scan: Scan, chosen: str, component: str, position: str, *, causal: bool) -> pl.DataFrame:
    """SUMMARY of the probes, and of what removing their directions does."""
    predictions, bands, model = (
        scan.table("predictions").collect(),
        scan.table("bands").collect(),
        scan.run.slug,
    )
    scan.table("probes")
    labels, place = (
        {"model": model, "dataset": scan.dataset.name, "metric": chosen},
        {"component": component, "position": position},
    )
    with scan.run.phase("statistics"):
        probed = probe_statistics.summarise(
            predictions, bands, labels=labels, place=place, seed=scan.run.options.seed
        )
    if not causal:
        return probed
    from biasscope.engine.measure import directions

    effects = scan.table("effects")
    with scan.run.phase("statistics"):
        removed = summarise(effects, model=model, method="removal", design=scan.ungrouped)
        return pl.concat([probed, probe_statistics.against_random(removed, directions.PROBE)])


def write_weights(scan: Scan) -> None:
    """Write the probes of all layers as safetensors: logit = weight · (x − mean) / scale + bias."""
    from safetensors.numpy import save

    folder = scan.run.folder(scan.dataset.name, scan.key)
    rows = pl.read_parquet(folder / "probes.parquet").sort("layer")
    arrays = {
        name: np.array(rows[name].to_list(), np.float64) for name in ("weight", "mean", "scale", "bias", "c")
    }
    files.write_bytes(folder / "probes.safetensors", save(arrays))
