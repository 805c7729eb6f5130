"""PATTERNS are the weights that TransformerLens caches, one prompt at a time; what is not kept is said."""

import polars as pl
import pytest
import torch

from biasscope.engine.experiments.scans import shown
from biasscope.engine.measure import patterns
from biasscope.engine.model import attention, tokens
from biasscope.engine.types import Example, Site
from tests.support import stored
from tests.support.cli import biasscope
from tests.support.tiny_models import EXACT

pytestmark = pytest.mark.usefixtures("few_draws")


def cached(lm, prompt: str, head: Site) -> torch.Tensor:
    """The last row of the pattern in TransformerLens's own cache of the prompt alone."""
    ids = torch.tensor([list(tokens.encode(lm, prompt))])
    with torch.no_grad():
        _, cache = lm.bridge.run_with_cache(ids)
    return cache[f"blocks.{head.layer}.attn.hook_pattern"][0, head.head, -1]


@pytest.mark.parametrize("family", [*EXACT, "mpt"])
def test_weights_are_those_of_one_prompt_at_a_time(family, tiny, examples):
    lm = tiny(family)
    heads = [Site(layer, "z", layer % lm.n_heads) for layer in range(lm.n_layers)]
    forest = tokens.forest(lm, [e for e in examples if e.prompt and e.term != ""])
    ids = [e.id for e in forest.examples]
    units = patterns.units(lm, forest, dict.fromkeys(heads, ids))
    table = pl.concat(unit.compute()["patterns"] for unit in units)
    assert table.schema == patterns.PATTERNS and attention.missing(lm) == ""
    assert table.select("example_id", "layer").n_unique() == len(forest.examples) * lm.n_layers
    for example in forest.examples:
        for head in heads:
            rows = table.filter(example_id=example.id, layer=head.layer, head=head.head)
            alone = cached(lm, example.prompt, head)
            assert rows["weight"].to_list() == pytest.approx(alone.tolist(), abs=1e-5)
            assert "".join(rows["token"]).endswith(example.prompt)
            assert rows["node"].to_list() == list(range(len(alone)))


@pytest.mark.parametrize(
    ("prompt", "term", "places"),
    [("The nurse said that", "nurse", ["nurse"]), ("A strange old plumber of the plumbers", "plumber", [])],
)
def test_the_term_is_the_word_the_prompt_is_about_in_all_its_tokens(tiny, prompt, term, places):
    lm = tiny("llama")
    about = Example("a", "d", "gender", term, prompt, " he", " she")
    (unit,) = patterns.units(lm, tokens.forest(lm, [about]), {Site(0, "z", 0): ["a"]})
    rows = unit.compute()["patterns"].filter("term")
    assert "".join(rows["token"]).split() == (places or ["plumber", "plumber"])
    assert len(lm.ids(prompt)) > rows.height > 0


def test_a_model_without_weights_is_named_and_its_effects_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "readouts", lambda *given: {})
    where = ["-d", "occupations", "--limit", 12, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c"]
    _, _, err = biasscope("ablate", "-m", "planted:single", "--layers", "1", *where)
    assert "shows no attention weights in layer 0: where its heads look is not kept" in err
    folder = next(tmp_path.glob("r/*/*/ablate/*"))
    assert not (folder / "patterns.parquet").exists() and (folder / "prompts.parquet").exists()


def test_the_first_heads_and_all_with_a_star_are_kept():
    def row(layer: int, estimate: float, p: float) -> dict:
        site = {"source": "zero", "component": "z", "layer": layer, "head": 0, "estimate": estimate}
        return {**site, "model": "m", "dataset": "d", "ci_low": estimate - 0.1, "p_family": p} | {
            "ci_high": estimate + 0.1
        }

    rows = stored.rows(*(row(layer, 1 / (layer + 1), 0.01 if layer == 20 else 0.9) for layer in range(30)))
    rows = rows.with_columns(ci_low=pl.col("estimate") / 2)
    assert [site.layer for site in shown.heads(rows)] == [*range(shown.FIRST), 20]


def test_of_many_prompts_the_most_moved_and_drawn_ones_are_kept(tmp_path, monkeypatch):
    for name, few in {"EVERY": 20, "MOVED": 3, "DRAWN": 5}.items():
        monkeypatch.setattr(shown, name, few)
    where = ["-d", "occupations", "--limit", 60, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "-q"]
    biasscope("ablate", "-m", "planted:single", "--heads", "1.2,1.0", *where)
    folder = next(tmp_path.glob("r/*/*/ablate/*"))
    table = pl.read_parquet(folder / "patterns.parquet")
    effects = pl.read_parquet(folder / "effects.parquet").filter(metric="target", layer=1, head=2)
    kept = set(table.filter(head=2)["example_id"])
    ordered = effects.sort("effect")["example_id"].to_list()
    assert {*ordered[:3], *ordered[-3:]} <= kept and 6 < len(kept) <= 11
    assert "of 60 prompts the 3 that each moves most each way and 5 drawn ones" in (
        folder / "run.json"
    ).read_text(encoding="utf-8")
    first = table.write_json()
    for file in (folder / "run.json", folder / "patterns.parquet"):
        file.unlink()
    _, _, err = biasscope("ablate", "-m", "planted:single", "--heads", "1.2,1.0", *where[:-1])
    assert "loading" not in err  # stored with the run's other parts
    assert pl.read_parquet(folder / "patterns.parquet").write_json() == first
