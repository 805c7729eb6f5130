"""What concludes from a finished run, as functions: edits of its model, and an edit as files."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from biasscope.api import Where, _continued, _option, _voice
from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.experiments.mitigate import leave, wanted
from biasscope.engine.experiments.mitigate import mitigate as measured
from biasscope.engine.settings import SILENT
from biasscope.notebook import Run
from biasscope.report.edits import card


def mitigate(run: Run | str, *, progress: bool | None = None, **options: Any) -> Run:
    """What edits of the model of a run of `ablate` take of its bias, what they cost, what random edits do.

    As `biasscope mitigate --from RUN`, whose --help says what each option does: kind, sizes, doses, layers,
    at, transfer, text, tokens, random, all_doses. `export` writes an edit of it.
    """
    names = [f.name for f in fields(wanted.Wanted)]
    if unknown := [name for name in options if name not in names]:
        raise TypeError(datasets.unknown("option of mitigate", unknown[0], names))
    given = {name: _option(name, str, value) for name, value in options.items()}
    for name in {"doses", "layers"} & given.keys():
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
