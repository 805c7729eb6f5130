"""Packed, resumed and partly unembedded passes equal plain ones, on every family."""

import pytest
import torch

from biasscope.engine.errors import DataError
from biasscope.engine.model import exactness, forward, tokens, weights
from biasscope.engine.model.loading import boot
from biasscope.engine.types import Site
from tests.support import slow
from tests.support.tiny_models import EXACT, save_tiny


@pytest.mark.parametrize("family", [*EXACT, "mpt"])
def test_a_forest_reads_what_one_at_a_time_runs_read(family, tiny, examples):
    lm = tiny(family)
    assert lm.packed == (family in EXACT)
    for block in (forest := tokens.forest(lm, examples)).blocks:
        logp = forward.read(block, forward.run(lm, block, {})).logp[0]
        for e, local in zip(*forest.members(block), strict=True):
            for slot, side in enumerate(e.sides):
                ids, first = slow.span(lm, *side)
                alone = float(slow.logp(lm, ids, first)) / (len(ids) - first if e.per_token else 1)
                assert float(logp[local, slot]) == pytest.approx(alone, abs=2e-4)


@pytest.mark.parametrize("family", [*EXACT, "mpt"])
def test_a_resumed_pass_equals_the_full_pass(family, tiny, examples):
    lm = tiny(family)
    block = tokens.forest(lm, examples).blocks[0]
    start = forward.clean(lm, block)
    for layer in range(lm.n_layers):
        resumed = forward.run(lm, block, {}, copies=2, layer=layer, start=start)
        assert (resumed - forward.run(lm, block, {})).abs().max() < 2e-4


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_a_family_that_cannot_be_measured_is_refused_by_name(family, tmp_path):
    with pytest.raises(DataError, match="cannot be measured|cannot boot|no attention heads"):
        exactness.check_packing(
            boot(weights.Weights(family, save_tiny(family, tmp_path), None, "0" * 64), device="cpu")
        )


def test_blocks_are_themselves_again_after_a_resumed_pass_that_fails(tiny, examples):
    lm = tiny("gpt2")
    block = tokens.forest(lm, examples).blocks[0]
    start = forward.clean(lm, block)

    def fail(act):
        raise RuntimeError("in the hook")

    with pytest.raises(RuntimeError, match="in the hook"):
        forward.run(lm, block, {Site(2, "mlp_out").hook: fail}, layer=2, start=start)
    assert all("forward" not in b.__dict__ for b in lm.bridge.blocks)
    assert torch.equal(forward.clean(lm, block).logp, start.logp)


def test_only_readout_nodes_are_unembedded(tiny, examples):
    lm = tiny("llama")
    block = tokens.forest(lm, examples).blocks[0]
    assert forward.run(lm, block, {}).shape == (1, len(block.places), lm.vocab)
    assert len(block.places) < int((block.weights > 0).sum())


def test_kl_of_the_clean_run_with_itself_is_zero_and_never_negative(tiny, examples):
    lm = tiny("gpt2")
    block = tokens.forest(lm, examples).blocks[0]
    start = forward.clean(lm, block)
    same = forward.edited(
        lm,
        block,
        start,
        [{Site(3, "z"): forward.Put(forward.capture(lm, block, [Site(3, "z")])[0][Site(3, "z")])}],
    )
    assert 0 <= float(same.kl.min()) <= float(same.kl.max()) < 1e-6
