"""Activations at named positions equal what TransformerLens caches one text at a time, and any Parquet reader
reads them.
"""

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from biasscope.engine.errors import DataError
from biasscope.engine.measure import activations
from biasscope.engine.model import tokens
from biasscope.engine.store import files, shards

WORDS = {
    "a": ("The nurse said that", "nurse"),
    "b": ("The nurse said", "nurse"),
    "c": ("My father said that", "nurse"),
    "d": ("The", "The"),
}


def texts(lm) -> list[activations.Text]:
    found = [activations.text(lm, name, *words) for name, words in WORDS.items()]
    return [t for t in found if isinstance(t, activations.Text)]


def read(lm, component: str, position: str) -> pl.DataFrame:
    return pl.concat(
        unit.compute()["activations"] for unit in activations.units(lm, texts(lm), component, position)
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "mpt"])
@pytest.mark.parametrize("component", activations.COMPONENTS)
def test_every_position_equals_a_pass_over_the_text_alone(tiny, family, component):
    lm = tiny(family)
    found = {p: read(lm, component, p) for p in activations.POSITIONS}
    for t in texts(lm):
        sites = activations.sites(lm, component)
        with torch.no_grad():
            cache = lm.bridge.run_with_cache(torch.tensor([t.ids]), names_filter=[s.hook for s in sites])[1]
        for site in sites:
            act = cache[site.hook][0]
            wanted = {"last": act[-1], "mean": act.mean(0)} | (
                {} if t.term is None else {"term": act[t.term]}
            )
            for position, value in wanted.items():
                rows = (
                    found[position]
                    .filter(pl.col("example_id") == t.id, layer=site.layer, component=site.component)
                    .sort("head")
                )
                assert torch.allclose(
                    torch.tensor(rows["values"].to_list()).view(value.shape), value, rtol=2e-5, atol=1e-4
                )


def test_the_residual_stream_has_one_row_more_than_layers(tiny):
    sites = activations.sites(tiny("gpt2"), "resid")
    assert [str(s) for s in sites] == [
        "L0.resid_pre",
        "L1.resid_pre",
        "L2.resid_pre",
        "L3.resid_pre",
        "L3.resid_post",
    ]


def test_the_term_is_read_at_its_last_token_and_only_where_it_stands(tiny):
    lm = tiny("gpt2")
    by_id = {t.id: t.term for t in texts(lm)}
    assert by_id["a"] == len(lm.tokenizer("The nurse").input_ids) - 1
    assert by_id["c"] is None and set(read(lm, "resid", "term")["example_id"]) == {"a", "b", "d"}


@pytest.mark.parametrize("words", ["The nurses said", "the NURSE, she", "a nurse and a nurse"])
def test_a_term_is_found_as_a_whole_word_with_its_plural_and_in_any_case(tiny, words):
    lm = tiny("gpt2")
    found = tokens.term_places(lm, words, "nurse")
    assert len(found) == words.lower().count("nurse")
    for place in found:
        ids = [lm.tokenizer(words).input_ids[i] for i in place]
        assert lm.tokenizer.decode(ids).strip(" s,").lower() == "nurse"


def test_a_word_inside_another_is_no_term(tiny):
    assert tokens.term_places(tiny("gpt2"), "The nursery said", "nurse") == []


def test_no_text_with_the_position_is_refused(tiny):
    with pytest.raises(DataError, match="--position last"):
        activations.units(tiny("gpt2"), [activations.Text("a", (1, 2), None)], "resid", "term")


def test_the_file_has_lists_of_one_fixed_size_and_reads_back(tiny, tmp_path):
    frame = read(tiny("gpt2"), "resid", "last")
    sha256 = shards.write_table(tmp_path / "a.parquet", frame, shards.SCHEMAS["activations"])
    assert str(pq.read_schema(tmp_path / "a.parquet").field("values").type).startswith("fixed_size_list")
    assert shards.decoded(
        files.verified(tmp_path / "a.parquet", sha256), shards.SCHEMAS["activations"]
    ).equals(frame)
    assert pl.read_parquet(tmp_path / "a.parquet")["values"].to_list() == frame["values"].to_list()
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    found = (
        duckdb.read_parquet(str(tmp_path / "a.parquet")).aggregate("count(*), max(len(values))").fetchall()
    )
    assert found == [(20, 48)]
