"""Prompts for tiny models: single ones, and pairs of a prompt with its twin."""

from biasscope.engine.model import tokens
from biasscope.engine.types import Example

PAIRS = {
    "a": ("The nurse said that", "The plumber said that"),
    "b": ("The nurse said", "The plumber said"),
    "c": ("The nurse told my father that", "The teacher told my father that"),
    "d": ("My father said that", "My mother said that"),
}
TERMS = {"a": "nurse", "b": "nurse", "c": "nurse", "d": "father"}


def example(number: int, prompt: str, stereo: str = " he", anti: str = " she", **fields) -> Example:
    """An Example with the fields that matter to a test."""
    return Example(f"e{number}", "tests", "gender", f"g{number % 3}", prompt, stereo, anti, **fields)


def paired(lm, share: str = "example", names: str = "abcd"):
    """The pairs that have as many tokens with this tokenizer, as a forest with twins and one without."""
    every = [Example(i, "t", "gender", TERMS[i], PAIRS[i][0], " he", " she") for i in names]
    fits = [
        e
        for e in every
        if len(lm.tokenizer(e.prompt).input_ids) == len(lm.tokenizer(PAIRS[e.id][1]).input_ids)
    ]
    assert len(fits) >= 2
    return fits, tokens.forest(
        lm, fits, share=share, twins={e.id: PAIRS[e.id][1] for e in fits}, positions=share == "example"
    )
