"""`biasscope pairs`."""

from pathlib import Path
from typing import Annotated

from biasscope import options

PANEL = "Prepare"
EXAMPLES = (
    "biasscope pairs --dataset winogender",
    "biasscope pairs --model gpt2 --dataset stereoset_race --json | jq '.[] | select(.kept | not) | .reason'",
    "biasscope pairs --dataset stereoset_gender --acdc pairs/",
)


def pairs(
    o: options.Measure,
    acdc: Annotated[
        Path | None,
        options.option("--acdc", "Also write the pairs that fit as the original study's ACDC files into this folder", panel=options.OUTPUT),
    ] = None,
) -> None:
    """Show every prompt with its counterfactual twin, or why it has none with this model's tokenizer."""
    from collections import Counter

    from biasscope import running, show
    from biasscope.engine import runs, store, twins
    from biasscope.engine.errors import DataError

    run = running.start("pairs", o)
    rows, cells, missing = [], [], Counter[str]()
    for dataset in run.datasets:
        kept, dropped = twins.fit(run.lm, dataset, o.seed)
        for e in dataset.examples:
            twin = kept.get(e.id)
            text, partner = (twin.prompt, twin.partner) if twin else (None, None)
            row = {"dataset": dataset.name, "example_id": e.id, "group": e.group, "partner": partner, "kept": twin is not None}
            rows.append({**row, "clean": e.prompt, "twin": text, "reason": dropped.get(e.id)})
            cells.append([e.prompt, text or f"– {dropped[e.id]}"])
        run.screen.note(f"{dataset.name}: {len(kept)} of {len(dataset.examples)} examples have a twin with the tokenizer of {o.model}")
        missing.update(dropped.values())
        for reason, n in Counter(dropped.values()).most_common():
            run.screen.note(f"{dataset.name}: {n} dropped: {reason}")
        if acdc is not None:
            acdc.mkdir(parents=True, exist_ok=True)
            file = acdc / f"{runs.safe_name(dataset.name)}_acdc_pairs.json"
            store.write_json(file, twins.acdc(run.lm, dataset.examples, kept))
            run.screen.note(f"{dataset.name}: pairs written to {file}")
    if not any(row["kept"] for row in rows):
        found = ", ".join(f"{n} × {reason}" for reason, n in missing.most_common())
        raise DataError(f"no example has a twin: {found}; try another --model or --dataset")
    chosen = options.Format.JSON if o.json else o.format
    show.listing("clean prompt and twin", rows, cells, chosen, columns=["clean", "twin"])
