"""The steps of `pairs`: every prompt with its counterfactual twin, or why it has none."""

from collections import Counter
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DataError
from biasscope.engine.experiments.scans import session
from biasscope.engine.settings import SILENT, Measure, Voice
from biasscope.engine.store import files


def pairs(
    settings: Measure, *, acdc: Path | None = None, mib: Path | None = None, voice: Voice = SILENT
) -> list[dict[str, Any]]:
    """A row per prompt; pairs that fit are also written into the folders `acdc`, as the original study's ACDC
    files, and `mib`, as tasks of EAP-IG and MIB.
    """
    from biasscope.engine.model import twins

    run = session.start("pairs", settings, voice=voice)
    rows: list[dict[str, Any]] = []
    missing = Counter[str]()
    for dataset in run.datasets:
        kept, dropped = twins.fit(run.lm, dataset, settings.seed)
        for e in dataset.examples:
            twin = kept.get(e.id)
            text, partner = (twin.prompt, twin.partner) if twin else (None, None)
            row = {"dataset": dataset.name, "example_id": e.id, "group": e.group, "partner": partner}
            texts = {"clean": e.prompt, "twin": text, "reason": dropped.get(e.id)}
            rows.append({**row, "kept": twin is not None, **texts})
        voice.note(
            f"{dataset.name}: {len(kept)} of {len(dataset.examples)} examples have a twin with the tokenizer "
            f"of {settings.model}"
        )
        missing.update(dropped.values())
        for reason, n in Counter(dropped.values()).most_common():
            voice.note(f"{dataset.name}: {n} dropped: {reason}")
        if acdc is not None:
            acdc.mkdir(parents=True, exist_ok=True)
            file = acdc / f"{files.safe_name(dataset.name)}_acdc_pairs.json"
            files.write_json(file, twins.acdc(run.lm, dataset.examples, kept))
            voice.note(f"{dataset.name}: pairs written to {file}")
        if mib is not None:
            mib.mkdir(parents=True, exist_ok=True)
            file, task = mib / f"{files.safe_name(dataset.name)}.csv", twins.task(run.lm, dataset, kept)
            files.write_bytes(file, task.write_csv().encode())
            voice.note(f"{dataset.name}: {task.height} pairs with fillers of one token written to {file}")
    if not any(row["kept"] for row in rows):
        reasons = ", ".join(f"{n} × {reason}" for reason, n in missing.most_common())
        raise DataError(f"no example has a twin: {reasons}; try another --model or --dataset")
    return rows
