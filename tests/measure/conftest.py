"""Planted models, each built once a file."""

import functools

import pytest
import torch

from biasscope.engine.data import datasets
from biasscope.engine.model import exactness, planted, tokens, twins, weights
from biasscope.engine.model.loading import boot


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(kind, seed) → the planted model, a forest of 120 prompts with twins, and each occupation's partner."""

    @functools.cache
    def build(kind: str, seed: int):
        folder = tmp_path_factory.mktemp(f"{kind}{seed}")
        for part in planted.build(kind, planted.words(), seed=seed):
            part.save_pretrained(folder)
        lm = exactness.check_packing(boot(weights.Weights(kind, folder, None, "0" * 64), device="cpu"))
        data = datasets.load("occupations", folder, limit=120)
        kept, _ = twins.fit(lm, data, 0)
        examples = [e for e in data.examples if e.id in kept]
        forest = tokens.forest(
            lm, examples, share="example", twins={id_: t.prompt for id_, t in kept.items()}
        )
        return lm, forest, {e.group: kept[e.id].partner for e in examples}

    return lambda kind, seed=0: build(kind, seed)


@pytest.fixture
def trainable(tiny):
    """A tiny model whose weights ask for gradients, without which TransformerLens's own attribution has no
    graph.
    """
    changed = []

    def get(family: str):
        changed.extend(p for p in tiny(family).bridge.parameters() if not p.requires_grad)
        for p in changed:
            p.requires_grad_(True)
        return tiny(family)

    with torch.backends.mkldnn.flags(enabled=False):
        yield get
    for p in changed:
        p.requires_grad_(False)
