"""The steps of `baseline`: the clean model's scores, or the published scores of another's predictions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from biasscope.engine.data import datasets, predictions
from biasscope.engine.data.datasets.stereoset import ORIGIN
from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.scans import models, scan, selection, session, shown
from biasscope.engine.settings import SILENT, Measure, Voice
from biasscope.engine.statistics import baseline as statistics
from biasscope.engine.statistics import published
from biasscope.engine.store import digests, files, journal, runs, seals
from biasscope.engine.types import Dataset


def baseline(
    settings: Measure, *, given: str | None = None, group_by: str | None = None, voice: Voice = SILENT
) -> runs.Result:
    """What the clean model prefers, or the model with some sites mean-ablated; by a column's values too."""
    gone = selection.parse_sites("--given", given) if given else ()
    rows = {"group_by": group_by} if group_by else {}
    run = session.start("baseline", settings, ({"given": given} if given else {}) | rows, voice)
    selection.early(models.shape(run.weights, run.options.model), gone)
    if group_by:
        _check_column(group_by, run.datasets)
    for each in scan.scans(run, **selection.in_identity(gone), **rows):
        if not each.complete:
            from biasscope.engine.measure import baseline as clean

            forest = each.forest(sentences=True)
            units = clean.units(run.lm, forest, each.standing(gone))
            each.close(forest.examples, each.measure(units, "baseline"), forest.dropped, forest.partly)
        if not each.complete:  # a shard's run: the others measure the rest
            continue
        scores, triples = each.table("scores").collect(), each.table("triples").collect()
        name = each.dataset.name
        with run.phase("statistics"):
            known = set(scores["example_id"])
            examples = tuple(example for example in each.dataset.examples if example.id in known)
            measured = replace(each.dataset, examples=examples)
            summary = statistics.baseline(
                scores, measured, model=run.slug, design=each.ungrouped, group_by=group_by
            )
            each.run.write(run.folder(name, each.key), "prompts", [shown.texts(examples)])
            if triples.height:
                metric = "likelihood" if any(e.per_token for e in examples) else "stereoset"
                scored = published.stereoset(
                    triples, model=run.slug, dataset=name, seed=settings.seed, metric=metric
                )
                summary = pl.concat([scored, summary])
            each.put("subsets", statistics.subsets(measured, group_by))
        each.save(summary)
    return run.finish()


def _check_column(column: str, measured: Sequence[Dataset]) -> None:
    """UsageError where a data set has no such column, or one of too many values to have a row each."""
    for data in measured:
        values = {e.meta.get(column) for e in data.examples} - {None}
        if not values:
            known = sorted({name for e in data.examples for name in e.meta})
            raise UsageError(datasets.unknown(f"column of {data.name}", column, known or ["none is kept"]))
        if len(values) > statistics.SHOWN:
            raise UsageError(
                f"--group-by {column} would make {len(values)} rows; a column of at most {statistics.SHOWN} "
                "values can be taken"
            )


def score(settings: Measure, file: Path, *, voice: Voice = SILENT) -> runs.Result:
    """The published scores of somebody else's predictions; no model is loaded."""
    if settings.limit is not None:
        raise UsageError("--limit does not go with --predictions: published scores are over a whole split")
    files.check_writable(settings.output_dir)
    own = {"predictions": str(file)}
    run = session.Session(
        command="baseline", options=settings, own=own, voice=voice, slug=files.safe_name(file.stem)
    )
    for name in dict.fromkeys(settings.dataset or ["stereoset"]):
        with run.phase("statistics"):
            triples = predictions.load(file, name, settings.data_dir)
            run.slug = seals.claim(settings.output_dir, files.safe_name(file.stem), digests.of_file(file))
            summary = published.stereoset(triples, model=run.slug, dataset=name, seed=settings.seed)
        part = runs.DatasetPart(
            name=name,
            digest=digests.digest(sorted(triples["example_id"])),
            source=dict(ORIGIN.record()),
            found=triples.height,
            used=triples.height,
            not_drawn=0,
            dropped={},
            partly={},
            groups=triples["group"].n_unique(),
        )
        identity = journal.identity(
            "baseline", predictions=digests.of_file(file), dataset=name, seed=settings.seed
        )
        key = journal.run_key(identity)
        run.write(run.folder(name, key), "triples", [triples])
        run.keep(part, key, summary)
    return run.finish()
