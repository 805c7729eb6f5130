"""What concludes from finished runs, as functions: circuits, comparisons, edits, an edit as files."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from biasscope.api import DEFAULTS, Where, _names, _option, _settings, _voice, load
from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.experiments import circuit as circuits
from biasscope.engine.experiments.mitigate import leave, wanted
from biasscope.engine.experiments.mitigate import mitigate as measured
from biasscope.engine.settings import SILENT, Measure
from biasscope.notebook import Run
from biasscope.report import comparison
from biasscope.report.comparison import Comparison
from biasscope.report.edits import card
from biasscope.report.page import gather, pairing


def circuit(
    run: Run | str,
    *,
    sizes: Sequence[int] | str | None = None,
    minimal: bool = False,
    target: float = 0.8,
) -> Run:
    """Keep or remove only the strongest sites, or edges, of a run of `ablate` or `patch`: what is theirs.

    As `biasscope circuit --from RUN`.
    """
    settings, ranked = _continued(run)
    some = None if sizes is None else _option("sizes", str, sizes)
    options: Any = {"sizes": some, "minimal": minimal, "target": target}
    result = circuits.circuit(settings, str(ranked.folder), **options, voice=_voice(None))
    return Run(result, ranked._held)


def mitigate(run: Run | str, *, progress: bool | None = None, **options: Any) -> Run:
    """What edits of the model of a run of `ablate` take of its bias, what they cost, what random edits do.

    As `biasscope mitigate --from RUN`, whose --help says what each option does: kind, sizes, doses, layers,
    at, transfer, text, tokens, random, all_doses, audit. `export` writes an edit of it.
    """
    names = [f.name for f in fields(wanted.Wanted)]
    if unknown := [name for name in options if name not in names]:
        raise TypeError(datasets.unknown("option of mitigate", unknown[0], names))
    given = {name: _option(name, str, value) for name, value in options.items()}
    for name in {"sizes", "doses", "layers"} & given.keys():
        given[name] = None if given[name] is None else str(given[name])
    if given.get("text") is not None:
        given["text"] = Path(given["text"])
    settings, ranked = _continued(run)
    result = measured(settings, str(ranked.folder), wanted=wanted.Wanted(**given), voice=_voice(progress))
    return Run(result, ranked._held)


def export(run: Run, name: str, folder: Where, forms: Sequence[str] | str = "recipe") -> list[Path]:
    """The files that an edit of a run of `mitigate` leaves as, with a card, in an empty folder.

    `forms`: some of recipe, weights, ia3, vector, gguf. DataError, with what can, where one cannot hold it.
    """
    target = leave.Target.of(name, _option("forms", str, forms), Path(folder))
    if target is None or run.record.command != "mitigate":
        raise UsageError(f"a run of {run.record.command} has no edit to export; mitigate(run) makes some")
    left = leave.leave(_continued(run)[0], run._result, target, SILENT)
    return [*(target.folder / file for file in left.files), card.write(left, run._result)]


def compare(*compared: Run | str, top: int = 10, output_dir: Where = DEFAULTS.output_dir) -> Comparison:
    """Two models on one data set (`differences`, `sentences`), and how far rankings agree (`agreement`).

    As `biasscope compare`; a table in a notebook. DataError where no two of the runs can be compared.
    """
    names, folder = _names(compared), Path(output_dir)
    rankings, used = comparison.measured(names, folder)
    pairs, why = pairing.pairs(gather.named(folder, names))
    made = Comparison(pairs, rankings, used, top)
    made.refuse_empty(why)
    return made


def _continued(run: Run | str) -> tuple[Measure, Run]:
    """The settings by which a run is continued, and the run."""
    ranked = load(run) if isinstance(run, str) else run
    places = {name: ranked.record.params[name] for name in ("cache_dir", "output_dir", "data_dir")}
    model = ranked._held.lm or ranked.record.params["model"]
    return replace(_settings(model, None, places), held=ranked._held), ranked
