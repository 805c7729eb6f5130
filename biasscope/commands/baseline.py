"""`biasscope baseline`."""

from pathlib import Path
from typing import Annotated

from biasscope import options

PANEL = "Measure"
EXAMPLES = (
    "biasscope baseline",
    "biasscope baseline --model gpt2 --dataset stereoset --dataset winogender",
    "biasscope baseline --predictions predictions.json --dataset stereoset",
)


def baseline(
    o: options.Measure,
    predictions: Annotated[
        Path | None,
        options.option(
            "--predictions", "Score these per-sentence scores instead of a model", panel=options.DATA, exists=True, dir_okay=False
        ),
    ] = None,
) -> None:
    """Score the clean model: StereoSet's LMS, SS and ICAT, target and sentence gaps, WinoGender's shift and slope."""
    if predictions is not None:
        return _score_predictions(o, predictions)

    import polars as pl

    from biasscope import running
    from biasscope.engine import baselines

    run = running.start("baseline", o)
    for each in run.scans():
        if not each.complete:
            from biasscope.engine import scores as clean

            forest = each.forest(sentences=True)
            each.close(forest.examples, each.measure(clean.units(run.lm, forest), "baseline"), forest.dropped, forest.partly)
        scores, triples = each.table("scores").collect(), each.table("triples").collect()
        name, shares = each.dataset.name, each.dataset.share_of_men()
        with run.phase("statistics"):
            summary = baselines.baseline(scores, each.scored(scores.lazy()), model=run.slug, share_of_men=shares, seed=o.seed)
            if triples.height:
                summary = pl.concat([baselines.stereoset(triples, model=run.slug, dataset=name, seed=o.seed), summary])
        each.save(summary)
    return run.finish()


def _score_predictions(o: options.Measure, file: Path) -> None:
    """Nothing: the published scores of somebody else's predictions; no model is loaded."""
    from biasscope.console import Screen
    from biasscope.engine import baselines, digests, predictions, runs, sealing, store
    from biasscope.engine.datasets.stereoset import SOURCE
    from biasscope.engine.errors import UsageError
    from biasscope.session import Session

    if o.limit is not None:
        raise UsageError("--limit does not go with --predictions: published scores are over a whole split")
    runs.check_writable(o.output_dir)
    own = {"predictions": str(file)}
    run = Session(command="baseline", options=o, own=own, screen=Screen(o.quiet, o.verbose), slug=runs.safe_name(file.stem))
    for name in dict.fromkeys(o.dataset or ["stereoset"]):
        with run.phase("statistics"):
            triples = predictions.load(file, name, o.data_dir)
            run.slug = sealing.claim(o.output_dir, runs.safe_name(file.stem), digests.of_file(file))
            summary = baselines.stereoset(triples, model=run.slug, dataset=name, seed=o.seed)
        part = runs.DatasetPart(
            name=name,
            digest=digests.digest(sorted(triples["example_id"])),
            source=dict(SOURCE.record()),
            found=triples.height,
            used=triples.height,
            not_drawn=0,
            dropped={},
            partly={},
            groups=triples["group"].n_unique(),
        )
        identity = store.identity("baseline", predictions=digests.of_file(file), dataset=name, seed=o.seed)
        key = store.run_key(identity)
        run.write(run.folder(name, key), "triples", [triples])
        run.keep(part, key, summary)
    run.finish()
