"""The steps of `encode`: the activations of every prompt, written as they are."""

from collections import Counter
from collections.abc import Sequence

from biasscope.engine.experiments.scans import models, scan, selection, session
from biasscope.engine.experiments.scans.scan import Scan
from biasscope.engine.schemas import SUMMARY
from biasscope.engine.settings import SILENT, Measure, Read, Stream, Voice
from biasscope.engine.store import runs
from biasscope.engine.types import Site


def encode(
    settings: Measure,
    *,
    site: Stream = "resid",
    position: Read = "last",
    given: str | None = None,
    voice: Voice = SILENT,
) -> runs.Result:
    """The activations of every prompt, for probes and other tools."""
    gone = selection.parse_sites("--given", given) if given else ()
    parameters = {"site": site, "position": position}
    run = session.start("encode", settings, parameters | ({"given": given} if given else {}), voice)
    selection.early(models.shape(run.weights, run.options.model), gone)
    for each in scan.scans(run, **parameters, **selection.in_identity(gone)):
        if not each.complete:
            _measure(each, site, position, gone)
        each.table("activations")
        each.save(SUMMARY.to_frame())
    return run.finish()


def _measure(each: Scan, site: str, position: str, gone: Sequence[Site]) -> None:
    """Read the activations of every example's prompt."""
    from biasscope.engine.measure import activations

    lm, dropped = each.run.lm, Counter[str]()
    texts, used = [], []
    for example in each.dataset.examples:
        # of two prompts the first
        text = activations.text(lm, example.id, example.prompt, example.word)
        if isinstance(text, str) or (position == "term" and text.term is None):
            dropped[text if isinstance(text, str) else "its prompt does not name the term"] += 1
        else:
            texts.append(text)
            used.append(example)
    names = each.measure(activations.units(lm, texts, site, position, each.standing(gone)), "encode")
    there = set().union(*(table["example_id"] for table in each.journal.tables("activations", names)))
    dropped.update(activations.NOT_FINITE for example in used if example.id not in there)
    for reason, n in dropped.items():
        each.warn(f"{n} of {len(each.dataset.examples)} examples dropped: {reason}")
    each.close([example for example in used if example.id in there], names, dropped)
