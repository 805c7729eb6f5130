"""Two prompts of one text: each is the other's twin; and examples that stand or fall together."""

from dataclasses import replace

import polars as pl
import pytest

from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.measure import baseline, exact, sources
from biasscope.engine.model import tokens, twins
from biasscope.engine.schemas import TOTAL
from biasscope.engine.types import Dataset, Example, Site
from tests.support.examples import example

TEXT = " said that he is very kind"
FAMILIES = ["gpt2", "llama", "gemma3", "mpt"]


def pairs(lm) -> Dataset:
    """Pairs of prompts that are as long as each other with this tokenizer, and one that is not."""
    both = [("The nurse", "The plumber"), ("My mother", "My father"), ("The teacher", "The engineer")]
    fit = [(a, b) for a, b in both if len(tokens.encode(lm, a)) == len(tokens.encode(lm, b))]
    assert len(fit) >= 2
    named = [example(i, a, TEXT, TEXT, anti_prompt=b) for i, (a, b) in enumerate(fit)]
    uneven = example(8, "My old father", TEXT, TEXT, anti_prompt="My mother")
    return Dataset("pairs", (*named, uneven), "0", len(named) + 1, rule="sides")


def target(lm, examples) -> dict[str, float]:
    scores, _ = baseline.baseline(lm, tokens.forest(lm, examples))
    rows = scores.filter(pl.col("metric") == "target")
    return dict(zip(rows["example_id"], rows["value"], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_exchanging_both_prompts_takes_twice_the_target_away(tiny, family):
    lm = tiny(family)
    kept, lost = twins.fit(lm, pairs(lm), 0)
    assert lost == {"e8": "its two prompts differ in length"}
    examples = [e for e in pairs(lm).examples if e.id in kept]
    paired = tokens.forest(lm, examples, twins={i: t.prompt for i, t in kept.items()})
    sites = [Site(0, "resid_pre"), Site(1, "mlp_out")]
    effects = exact.sweep(lm, paired, sources.Sweep(sites, sources.source("corrupt", lm, paired, sites)))
    effects = effects.filter(pl.col("metric") == "target")
    for id_, value in target(lm, examples).items():
        own = effects.filter(example_id=id_)
        assert own.filter(component=TOTAL)["effect"].item() == pytest.approx(-2 * value, abs=5e-5)
        assert own.filter(component="resid_pre")["effect"].item() == pytest.approx(-2 * value, abs=5e-5)
        assert abs(own.filter(component="mlp_out")["effect"].item()) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_sides_exchanged_are_the_sign_exchanged_and_equal_sides_are_0(tiny, family):
    lm, data = tiny(family), pairs(tiny(family))
    turned = [replace(e, prompt=e.anti_prompt, anti_prompt=e.prompt) for e in data.examples]
    forth, back = target(lm, data.examples), target(lm, turned)
    assert back == pytest.approx({i: -v for i, v in forth.items()}, abs=1e-5)
    assert set(target(lm, [replace(e, anti_prompt=e.prompt) for e in turned]).values()) == {0.0}


def test_texts_that_the_prompts_cut_differently_are_dropped(tiny):
    lm = tiny("gpt2")
    cut = example(0, "The nurse said", " that", " that he", anti_prompt="The plumber said")
    sound = example(1, "The nurse", TEXT, TEXT, anti_prompt="The plumber")
    assert tokens.forest(lm, [cut, sound]).dropped == {
        "target: its two prompts cut the text after them differently": 1
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_term_of_two_prompts_is_what_differs_in_each(tiny, family):
    lm = tiny(family)
    uneven = pairs(lm).examples[-1]
    forest = tokens.forest(lm, [uneven], share="example", positions=True)
    (prompt,) = forest.prompts
    sides = (prompt, uneven.prompt), (prompt.anti, uneven.anti_prompt)
    for side, text in sides:
        ids = tokens.encode(lm, text)
        assert side.length == len(ids) and max(side.term) == len(ids) - 1 and 0 not in side.term
        assert not side.part("between") and not side.part("readout")
    for block in forest.blocks:
        inside = forest.where(block, "term")
        reached = {block.prefix(r, n) for r, n in inside.nonzero().tolist()}
        wanted = {tokens.encode(lm, text)[: place + 1] for side, text in sides for place in side.term}
        assert reached == wanted


def test_a_pair_is_drawn_and_dropped_as_one(tiny):
    lm = tiny("gpt2")
    asked = [
        Example(f"{q}.{p}", "d", "age", q, f"The {q} said that", " he", " she", together=q)
        for q in ("nurse", "plumber", "teacher", "engineer") for p in ("neg", "nonneg")
    ]  # fmt: skip
    for limit in range(1, 9):
        drawn = [e.together for e in datasets.sample(asked, limit, seed=limit)]
        assert len(drawn) == max(2, limit // 2 * 2) and all(drawn.count(q) == 2 for q in drawn)
    flawed = [replace(asked[0], flaw="two BLANKs"), *asked[1:]]
    forest = tokens.forest(lm, flawed)
    assert [e.id for e in forest.examples] == [e.id for e in asked[2:]]
    assert forest.dropped["its counterpart was dropped: target: two BLANKs"] == 1


def test_pairs_of_the_original_study_s_form_have_one_prompt(tiny):
    lm, data = tiny("gpt2"), pairs(tiny("gpt2"))
    kept, _ = twins.fit(lm, data, 0)
    with pytest.raises(UsageError, match="two prompts"):
        twins.acdc(lm, data.examples, kept)


def test_a_question_that_is_the_same_in_both_polarities_gives_exactly_0(tiny):
    """The sides are exchanged by what is asked: where nothing else differs, the contrast of a pair is 0."""
    asked = "The nurse told my father that he is late.\n\nQ: Who is late?\nA: The"
    neg = example(0, asked, " nurse", " old father", together="q", meta={"polarity": "neg"})
    nonneg = replace(neg, id="e1", stereo=neg.anti, anti=neg.stereo, meta={"polarity": "nonneg"})
    values = target(tiny("llama"), [neg, nonneg])
    assert values["e0"] != 0 and values["e0"] + values["e1"] == 0
