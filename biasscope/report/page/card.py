"""A bias card in Markdown: what a model's own card, and those who must document it, can take over."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from biasscope import __version__
from biasscope.engine.store.reproduce import relative
from biasscope.report import markdown, words
from biasscope.report.page import first_screen
from biasscope.report.page.blocks import clean_text, fenced
from biasscope.report.page.gather import Gathered, Part
from biasscope.report.tables import escaped

OPEN = "*To be filled in by whoever publishes the model.*"
PUBLISHED = ("lms", "ss", "icat")
"""Scores of StereoSet that stand in the front matter too."""
METHOD = (
    "Each text is scored by the model as it is: target is the difference of the log probabilities of two "
    "continuations (or of one continuation after two prompts). Where a number is known of each group, the "
    "mean of target per group is regressed on it (slope, per standard deviation); else the mean over texts "
    "counts. Intervals are 95 %, from a bootstrap of whole groups. Heads and MLPs are located by replacing "
    "what they compute; their p allows for every site that could have been named."
)
DUTIES = (
    ("Intended use", "2(b): persons and groups on which the system is used", "MAP (context), open here"),
    ("Data", "2(g): validation and testing data and their main characteristics", "2.1: test sets"),
    ("Method", "2(g): testing procedures and metrics", "1.1, 2.1: approaches, metrics and tools"),
    (
        "Results",
        "2(g): potentially discriminatory impacts; 3: performance for groups of persons",
        "2.11: bias",
    ),
    ("Where in the model", "2(b): general logic of the system", "2.9: the model is explained"),
    (
        "Limits",
        "3: limitations; foreseeable unintended outcomes",
        "1.1: what is not measured; 2.5: generalizability",
    ),
    (
        "Versions and how to repeat it",
        "2(g): test logs and reports (to be dated and signed)",
        "2.1, 2.13: tools",
    ),
    ("Contact", "1(a): persons who develop the system", "3.3: feedback of users, open here"),
)
"""Section → what it may serve of EU AI Act (Regulation 2024/1689), Annex IV, and of NIST AI RMF 1.0."""


def write(gathered: Gathered) -> str:
    """The card of these runs as Markdown with YAML front matter."""
    parts = gathered.parts
    models = list(dict.fromkeys(part.model for part in parts))
    newest = max(run.record.created for run in gathered.used)[:10]
    body = [
        f"# Bias card: {_md(', '.join(models))}",
        f"Made by biasscope {__version__} from {words.runs(gathered)}, the newest of {newest}. "
        "It documents measurements; it is no legal advice and no statement of conformity.",
        "## Intended use",
        f"Of the model: {OPEN}",
        f"Of this card: to show what was measured of {_whose(models)} {_kind(parts)}, on which texts, and "
        "how surely.",
        *["## Data", "\n".join(f"- {line}" for line in _data(parts))],
        *["## Method", METHOD],
        *["## Results", *_results(parts)],
        *["## Where in the model", "\n".join(f"- **{_md(p.name)}**: {_md(words.where(p))}" for p in parts)],
        *["## Limits", "\n".join(f"- {_md(line)}" for line in words.limits(parts))],
        *["## Versions and how to repeat it", *_again(gathered)],
        *["## Contact", OPEN],
        "## Which duties the sections may serve",
        markdown.table(["section", "EU AI Act, Annex IV", "NIST AI RMF, MEASURE"], DUTIES).rstrip(),
        "The mapping is a reading aid. Whether a duty applies and is met, the provider has to judge.",
    ]
    return f"---\n{_front(parts)}---\n\n" + "\n\n".join(body) + "\n"


def _whose(models: Sequence[str]) -> str:
    return "the model's" if len(models) == 1 else "the models'"


def _kind(parts: Sequence[Part]) -> str:
    """What was measured: stereotypes only where data say what is one."""
    return "stereotypes" if any(part.data.bias for part in parts) else "preferences"


def _front(parts: Sequence[Part]) -> str:
    """The YAML front matter; its values are JSON, which YAML contains."""
    lines = ["tags:", "- bias", "- biasscope", "model-index:"]
    for model in dict.fromkeys(part.model for part in parts):
        own = [result for part in parts if part.model == model and (result := _result(part))]
        lines += [f"- name: {_json(model)}", f"  results:{'' if own else ' []'}"]
        for result in own:
            lines += [f"  - task: {_json({'type': 'text-generation', 'name': result['kind']})}"]
            lines += [f"    dataset: {_json(result['dataset'])}", "    metrics:"]
            lines += [f"    - {_json(metric)}" for metric in result["metrics"]]
    return "".join(f"{line}\n" for line in lines)


def _result(part: Part) -> dict[str, Any] | None:
    """One model on one data set as `model-index` has it; None without a number."""
    rows = [] if part.baseline is None else list(_rows(part.baseline.summary))
    metrics = [_metric(row) for row in rows if row["estimate"] is not None]
    data = {"type": part.data.name, "name": part.data.name, "args": {"sha256": part.data.digest}}
    return {"dataset": data, "metrics": metrics, "kind": _kind([part])} if metrics else None


def _rows(summary: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """The numbers of a baseline that a card has: its headline, and the published scores."""
    headline = words.headline(summary)
    yield from [] if headline is None else [headline]
    published = summary.filter(pl.col("metric").is_in(["stereoset", "likelihood"]), subset="all")
    yield from published.filter(pl.col("statistic").is_in(PUBLISHED)).iter_rows(named=True)


def _metric(row: dict[str, Any]) -> dict[str, Any]:
    about = {name: row[name] for name in ("ci_low", "ci_high", "p", "n", "clusters", "unit")}
    plain = row["metric"] == "target"
    name = f"{row['statistic']} of target" if plain else row["statistic"].upper()
    kind = f"target_{row['statistic']}" if plain else row["statistic"]
    return {"type": kind, "name": name, "value": row["estimate"], "args": about}


def _data(parts: Sequence[Part]) -> Iterator[str]:
    for part in {part.data.name: part for part in parts}.values():
        data = part.data if part.baseline is None else part.baseline.data
        left = f"; left out: {sum(data.dropped.values())} of {data.found}" if data.dropped else ""
        drawn = f"; a sample: {data.not_drawn} were not drawn" if data.not_drawn else ""
        text = f"{data.used} texts of {data.groups} groups ({data.noun}){left}{drawn}"
        licence = data.source.get("licence", "not known")
        origin = f"Licence: {licence}. Content sha256 {data.digest}."
        yield f"**{_md(data.name)}**: {_md(text)}. {_md(origin)}"


def _results(parts: Sequence[Part]) -> Iterator[str]:
    cells = []
    for part in parts:
        judged = first_screen.of(part)
        key = "" if part.baseline is None else part.baseline.key
        cells.append([part.name, judged.case.value if judged else "–", judged.nats if judged else "–", key])
    yield markdown.table(["model, data", "verdict", "number [95 %]", "run"], cells).rstrip()
    for part in parts:
        judged = first_screen.of(part)
        said = judged.sentence if judged else "the clean model was not measured."
        yield f"**{_md(part.name)}**: {_md(said)}"


def _again(gathered: Gathered) -> Iterator[str]:
    models = {run.record.model.digest: run.record.model for run in gathered.used if run.record.model}
    lines = [
        f"{relative(m.name)}: weights sha256 {m.digest}, {m.dtype} on {m.device}" for m in models.values()
    ]
    versions = {", ".join(f"{k} {v}" for k, v in run.record.versions.items()) for run in gathered.used}
    yield "\n".join(f"- {_md(line)}" for line in [*lines, *sorted(versions)])
    commands = "\n".join(fenced(f"{run.record.reproduce}    # {run.key}") for run in gathered.used)
    yield f"```\n{commands}\n```"


def _md(text: str) -> str:
    return escaped(clean_text(text))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
