"""What is tokenised, scored and dropped: the cases that StereoSet really holds."""

from dataclasses import replace

import pytest

from biasscope.engine.errors import DataError
from biasscope.engine.model import tokens
from biasscope.engine.model.loading import start_of_text
from biasscope.engine.model.packing import SLOTS, Scored
from tests.support.examples import example


def only(lm, e, sentences=False):
    return tokens.sequences(lm, e, sentences)


def test_a_continuation_is_tokenised_with_its_prompt_and_never_alone(tiny):
    lm = tiny("gpt2")
    (he, she), reasons = only(lm, example(0, "The nurse said that"))
    assert reasons == []
    assert he.ids[he.first :] == tuple(lm.tokenizer(" he").input_ids) != tuple(lm.tokenizer("he").input_ids)
    assert he.ids[: he.first] == she.ids[: she.first] == tuple(lm.tokenizer("The nurse said that").input_ids)


def test_every_token_of_a_filler_of_several_tokens_is_scored(tiny):
    lm = tiny("gpt2")
    filler = " selfcontradicting"
    (first, _), _ = only(lm, example(0, "The nurse is", filler, " kind"))
    assert lm.tokenizer.decode(first.ids[first.first :]) == filler
    assert len(first.ids) - first.first > 3
    block = tokens.forest(lm, [example(0, "The nurse is", filler, " kind")]).blocks[0]
    scored = [int(t) for _, t, key in block.predict if int(key) == SLOTS.index("stereo")]
    assert tuple(scored) == first.ids[first.first :]


def test_each_token_is_predicted_by_the_node_before_it(tiny, examples):
    lm = tiny("gpt2")
    for block in tokens.forest(lm, examples, sentences=True).blocks:
        for place, _, key in block.predict.tolist():
            row, node = block.places[place].tolist()
            path = [int(i) for i, seen in zip(block.ids[row], block.mask[row, node], strict=True) if seen]
            e, slot = block.examples[key // len(SLOTS)][0], key % len(SLOTS)
            assert any(
                tuple(path) == s.ids[: len(path)] and s.first <= len(path) < len(s.ids)
                for s in only(lm, examples[e], True)[0]
                if s.slot == slot
            )


def test_a_filler_glued_to_what_follows_drops_the_example_from_target(tiny):
    found, reasons = only(tiny("gpt2"), example(0, "The", " plumb", " kind", suffix="er said that"))
    assert found == []
    assert reasons == ["target: a token crosses the filler's right edge"]


def test_a_filler_glued_to_what_stands_before_it_drops_the_example_from_target(tiny):
    assert only(tiny("gpt2"), example(0, "The pl", "umber", "umbers"))[1] == [
        "target: a token crosses the filler's left edge"
    ]


def test_a_filler_after_a_full_stop_without_a_space_is_scored(tiny):
    lm = tiny("gpt2")
    (first, _), reasons = only(lm, example(0, "The nurse was late.", "kind", "strong"))
    assert (reasons, lm.tokenizer.decode(first.ids[first.first :])) == ([], "kind")


def test_a_double_space_leaves_a_bare_space_in_the_prompt(tiny):
    lm = tiny("gpt2")
    (first, _), reasons = only(lm, example(0, "The nurse is ", " kind", " strong"))
    assert reasons == []
    assert lm.tokenizer.decode(first.ids[: first.first]) == "The nurse is "
    assert lm.tokenizer.decode(first.ids[first.first :]) == " kind"


def test_an_empty_prompt_is_read_at_the_start_token(tiny):
    lm = tiny("gpt2")
    (first, _), _ = only(lm, example(0, "", "The", "My"))
    assert (first.ids[0], first.first) == (lm.start, 1)
    assert lm.tokenizer.convert_ids_to_tokens(lm.start) == "<|endoftext|>"


def test_an_empty_prompt_without_any_start_token_is_dropped_with_that_reason(tiny):
    assert only(replace(tiny("gpt2"), start=None), example(0, "", "The", "My"))[1] == [
        "target: no start token for an empty prefix"
    ]


def test_two_blanks_leave_the_sentences(tiny):
    e = example(
        0,
        "",
        "",
        "",
        flaw="two BLANKs",
        sentences=("The nurse is kind", "The nurse is late", "The nurse is zzz"),
    )
    found, reasons = only(tiny("gpt2"), e, True)
    assert reasons == ["target: two BLANKs"]
    assert {SLOTS[s.slot] for s in found} == {"stereo_sentence", "anti_sentence", "unrelated_sentence"}


def test_target_uses_the_case_of_the_context_and_sentence_that_of_the_data(tiny):
    lm = tiny("gpt2")
    e = example(
        0,
        "The Nurse I met is",
        " kind",
        " strong",
        sentences=tuple(f"The nurse i met is {w}" for w in ("kind", "strong", "zzz")),
    )
    found, _ = only(lm, e, True)
    assert lm.tokenizer.decode(found[0].ids) == "The Nurse I met is kind"
    assert lm.tokenizer.decode(found[3].ids) == "The nurse i met is kind"


def test_only_the_first_token_of_a_sentence_sees_the_start_token(tiny):
    lm = tiny("gpt2")
    first, rest = tokens.whole(lm, "The nurse is kind", 3)
    ids = tuple(lm.tokenizer("The nurse is kind").input_ids)
    assert (first, rest) == (Scored((lm.start, ids[0]), 1, 3), Scored(ids, 1, 3))


def test_a_tokenizer_that_prepends_shows_its_mark_to_every_token(tiny):
    lm = tiny("gpt2")
    tokenizer = type(
        "Marked",
        (),
        {
            "__call__": lambda self, text, **kw: type(
                "E",
                (),
                {
                    "input_ids": ([7] if kw.get("add_special_tokens", True) else [])
                    + lm.tokenizer(text).input_ids
                },
            )()
        },
    )()
    marked = replace(lm, tokenizer=tokenizer, start=7, prepends=True)
    assert start_of_text(tokenizer) == (7, True)
    (scored,) = tokens.whole(marked, "The nurse", 3)
    assert (scored.ids[0], scored.first) == (7, 1)
    assert only(marked, example(0, "", "The", "My"))[0][0].ids[0] == 7


def test_the_boundary_of_the_context_is_exact(tiny):
    lm = tiny("gpt2")
    (scored, _), _ = only(lm, example(0, "The nurse said that"))
    fits, too_long = (replace(lm, context=len(scored.ids) - 1 - n) for n in (0, 1))
    assert len(only(fits, example(0, "The nurse said that"))[0]) == 2
    assert only(too_long, example(0, "The nurse said that")) == (
        [],
        [f"target: longer than the model's context of {too_long.context} tokens"],
    )


def test_a_sentence_that_is_too_long_leaves_the_target(tiny):
    e = example(
        0,
        "The nurse is",
        " kind",
        " late",
        suffix=" to the teacher",
        sentences=tuple(f"The nurse is {w} to the teacher" for w in "abc"),
    )
    lm = replace(tiny("gpt2"), context=len(tiny("gpt2").tokenizer("The nurse is kind").input_ids))
    found, reasons = only(lm, e, True)
    assert ([SLOTS[s.slot] for s in found], len(reasons)) == (["stereo", "anti"], 1) and reasons[
        0
    ].startswith("sentence: longer than")
    assert [s.ids for s in found] == [s.ids for s in only(lm, e)[0]]
    forest = tokens.forest(lm, [e], sentences=True)
    assert (dict(forest.dropped), dict(forest.partly), len(forest.examples)) == ({}, {reasons[0]: 1}, 1)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tiny):
    with pytest.raises(DataError, match="do not belong together"):
        tokens.forest(replace(tiny("gpt2"), vocab=10), [example(0, "The nurse said that")])


def test_nothing_kept_is_an_error_with_the_reasons(tiny):
    with pytest.raises(DataError, match="1 of 1 dropped .*two BLANKs"):
        tokens.forest(tiny("gpt2"), [example(0, "", "", "", flaw="two BLANKs")])


def test_shared_prefixes_are_one_node_and_unshared_ones_are_not(tiny):
    lm = tiny("gpt2")
    two = [example(0, "The nurse said that"), example(1, "The nurse said that", " that", " was")]
    shared, apart = (tokens.forest(lm, two, share=s) for s in ("all", "example"))
    assert apart.nodes == 2 * shared.nodes == 2 * len(lm.tokenizer("The nurse said that").input_ids)
    assert shared.blocks[0].weights.unique().tolist() == [2]
    assert sorted(apart.blocks[0].owner.flatten().unique().tolist()) == [0, 1]


def test_equal_examples_are_computed_once_and_counted_each(tiny):
    lm = tiny("gpt2")
    twice = [example(0, "The nurse said that"), example(1, "The nurse said that")]
    forest = tokens.forest(lm, twice, share="example")
    assert forest.nodes == len(lm.tokenizer("The nurse said that").input_ids)
    assert forest.blocks[0].weights.unique().tolist() == [2]
    assert forest.members(forest.blocks[0]) == (twice, [0, 0])


def test_no_row_is_longer_than_the_attention_window_and_no_example_is_split(tiny, examples):
    lm = tiny("gpt-neo")
    forest = tokens.forest(lm, examples * 1, sentences=True)
    assert lm.window == 32
    assert max(b.ids.shape[1] for b in forest.blocks) <= 32
    assert sorted(i for b in forest.blocks for same in b.examples for i in same) == list(range(len(examples)))


def test_nodes_attend_to_their_ancestors_only(tiny, examples):
    block = tokens.forest(tiny("llama"), examples).blocks[0]
    assert (block.mask[0].sum(-1) == block.depth[0] + 1).all()
    assert not block.mask[0].triu(1).any()


def test_what_is_dropped_and_what_is_partly_missing_are_counted_apart(tiny):
    whole = tuple(f"The nurse is {w}" for w in ("kind", "late", "zzz"))
    flawed = example(0, "", "", "", flaw="two BLANKs", sentences=whole)
    for sentences, dropped, partly in ((False, 1, 0), (True, 0, 1)):
        forest = tokens.forest(tiny("gpt2"), [flawed, example(1, "The nurse said")], sentences=sentences)
        assert (forest.dropped["target: two BLANKs"], forest.partly["target: two BLANKs"]) == (
            dropped,
            partly,
        )
