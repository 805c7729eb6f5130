"""Edges equal TransformerLens's and autograd's one at a time, and sum to their node; paths equal hand-made
ones.
"""

import random
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from transformer_lens.tools.analysis import attribution_patching

from biasscope.engine.errors import DataError
from biasscope.engine.measure import attribution, effects, exact, sources
from biasscope.engine.measure.between import edges, graphs, paths
from biasscope.engine.model import planted
from biasscope.engine.model.edits.affine import Affine
from biasscope.engine.types import FINAL, Edge, Edit, Site
from tests.support import slow
from tests.support.examples import PAIRS, paired

FAMILIES = ["gpt2", "gpt-neo", "llama", "gemma3"]


def scored(lm, forest, *, steps=None, name="corrupt"):
    """The graph, and scores `example edge` of a forest with one example a row of the result."""
    graph = edges.stream(lm)
    nodes = sorted({sources.whole(site) for site in graph.ups})
    sweep = sources.Sweep(nodes, sources.source(name, lm, forest, nodes), metrics=("target",))
    parts = [edges.Scores(graph, block, sweep, steps).of(block.owner >= 0)[0] for block in forest.blocks]
    of = [e.id for block in forest.blocks for e in forest.members(block)[0]]
    return graph, dict(zip(of, torch.cat(parts), strict=True)), sweep


def some(graph, n: int) -> list[Edge]:
    """Edges into every kind of input, from every kind of node, and random ones."""
    rng = random.Random(0)
    kinds: dict[tuple[str, str], list[Edge]] = {}
    for edge in graph.edges:
        kinds.setdefault((edge.up.component, edge.down.component), []).append(edge)
    return list({rng.choice(kind): 0 for kind in kinds.values()} | dict.fromkeys(rng.sample(graph.edges, n)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edge_is_what_autograd_gives_for_it_alone(family, tiny):
    lm = tiny(family)
    found_in, forest = paired(lm)
    graph, scores, _ = scored(lm, forest)
    e = found_in[0]
    largest = float(scores[e.id].abs().max())
    for edge in some(graph, 6):
        eps = torch.zeros((), requires_grad=True)
        with torch.enable_grad():
            both = [slow.path(lm, PAIRS[e.id], filler, edge, eps) for filler in (e.stereo, e.anti)]
            wanted = torch.autograd.grad(both[0] - both[1], eps)[0]
        found = float(scores[e.id][graph.number[edge]])
        assert found == pytest.approx(float(wanted), abs=1e-4 * max(1, largest)), str(edge)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_is_patched_as_one_example_alone_says(family, tiny):
    lm = tiny(family)
    found_in, forest = paired(lm, share="all")
    graph = edges.stream(lm)
    nodes = sorted({sources.whole(site) for site in graph.ups})
    sweep = sources.Sweep(nodes, sources.corrupt(lm, nodes), metrics=("target",))
    chosen = some(graph, 4)
    table = pl.concat(u.compute()["effects"] for u in paths.units(graph, forest, chosen, sweep))
    e = found_in[1]
    for edge in chosen:
        row = table.filter(pl.col("head") == graph.number[edge], pl.col("example_id") == e.id)
        with torch.no_grad():
            values = [
                [float(slow.path(lm, PAIRS[e.id], filler, edge, torch.tensor(eps))) for eps in (0.0, 1.0)]
                for filler in (e.stereo, e.anti)
            ]
        wanted = (values[0][1] - values[1][1]) - (values[0][0] - values[1][0])
        assert row["effect"].item() == pytest.approx(wanted, abs=1e-4 * max(1, abs(wanted))), str(edge)


@pytest.mark.parametrize("name", ["corrupt", "zero", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_edges_of_a_node_sum_to_the_node(family, name, tiny):
    lm = tiny(family)
    _, forest = paired(lm)
    steps = 3 if name == "corrupt" and family != "gemma3" else None
    graph, scores, sweep = scored(lm, forest, steps=steps, name=name)
    nodes = sources.Sweep(graph.ups, sweep.source, metrics=("target",))
    whole = pl.concat(u.compute()["effects"] for u in attribution.units(lm, forest, nodes, steps))
    largest = float(whole["effect"].abs().max())
    for up in graph.ups:
        own = whole.filter(pl.col("head").eq_missing(up.head), component=up.component, layer=up.layer).select(
            "example_id", "effect"
        )
        mine = torch.tensor([e.up == up for e in graph.edges])
        for id_, effect in own.rows():
            assert float(scores[id_][mine].sum()) == pytest.approx(effect, abs=1e-4 * max(1, largest)), up


def test_edges_equal_those_of_transformer_lens(trainable):
    """One pair, no grouped queries: its gradient is taken at `corrupt`, our run that is patched."""
    lm = trainable("gpt2")
    found_in, forest = paired(lm, names="ab")
    graph, scores, _ = scored(lm, forest)
    e = found_in[0]
    ids, twin = (torch.tensor([lm.tokenizer(text).input_ids]) for text in PAIRS[e.id])
    he, she = (lm.tokenizer(e.prompt + filler).input_ids[-1] for filler in (e.stereo, e.anti))
    config = attribution_patching.EdgeAttributionConfig(granularity="edge")
    result = attribution_patching.attribution_patch(
        lm.bridge, twin, ids, lambda logits: logits[0, -1, he] - logits[0, -1, she], config
    )
    kinds = {"embed": "resid_pre", "attn_head_out": "z", "mlp_out": "mlp_out", "mlp_in": "mlp_in"}
    kinds |= {"q_input": "q", "k_input": "k", "v_input": "v", "logits": FINAL}
    theirs: dict[Edge, float] = {}
    for (up, down), score in result.edge_scores.items():
        edge = Edge(*(Site(n.layer or 0, kinds[n.kind], n.head) for n in (up, down)))
        theirs[edge] = theirs.get(edge, 0.0) + score
    assert theirs.keys() == set(graph.edges)
    ours = np.array([float(scores[e.id][graph.number[edge]]) for edge in theirs])
    assert np.abs(ours - np.array(list(theirs.values()))).max() < 1e-4


def test_a_model_that_its_graph_does_not_explain_is_refused_by_name(tiny):
    lm = tiny("gpt2")
    block = lm.bridge.blocks[2]
    scaled = block.attn.o.register_forward_hook(lambda module, args, out: 2 * out + 0.1 * out**2)
    try:
        with pytest.raises(DataError, match=r"edges cannot be measured in gpt2 \(gpt2\): those of a node"):
            edges.stream(lm)
    finally:
        scaled.remove()


def test_an_edit_of_the_stream_is_named_as_what_edges_do_not_go_with(tiny):
    lm = tiny("gpt2")
    one = torch.nn.functional.one_hot(torch.tensor(5), 48).float()
    map_ = Affine(left=one, right=one)
    edited = replace(lm, edit=Edit({Site(2, "resid_pre"): map_}, "erase-L2@1", "erase"))
    with pytest.raises(DataError, match="erase-L2@1 stands between what writes .*: leave out --edit"):
        edges.stream(edited)


def test_planted_edges_come_first_and_are_exact(lab):
    """`single`: L1H2 reads the occupation as its value and writes to the logits: the effect is of both."""
    lm, forest, _ = lab("single")
    graph, scores, sweep = scored(lm, forest)
    head = planted.SITES["first"]
    known = [Edge(Site(0, "resid_pre"), Site(1, "v", head.head)), Edge(head, Site(lm.n_layers - 1, FINAL))]
    total = torch.stack(list(scores.values())).abs().mean(0)
    assert set(total.argsort(descending=True)[:2].tolist()) == {graph.number[edge] for edge in known}
    table = pl.concat(u.compute()["effects"] for u in paths.units(graph, forest, known, sweep))
    wanted = exact.sweep(lm, forest, sources.Sweep([head], sources.corrupt(lm, [head]), metrics=("target",)))
    by_hand = dict(wanted.filter(component="z").select("example_id", "effect").rows())
    for row in table.iter_rows(named=True):
        assert row["effect"] == pytest.approx(by_hand[row["example_id"]], abs=2e-2)
        assert row["effect"] == pytest.approx(float(scores[row["example_id"]][row["head"]]), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_sets_of_edges_reach_from_the_model_to_its_twin_and_one_edge_is_its_path(family, tiny):
    """No edge replaced: the model. Every edge: the twin. One: what path patching says."""
    lm = tiny(family)
    _, forest = paired(lm, share="all")
    graph = edges.stream(lm)
    nodes = sorted({sources.whole(site) for site in graph.ups})
    source = sources.corrupt(lm, nodes)
    one = some(graph, 1)[5]
    wanted = [
        graphs.Edges("nothing", frozenset()),
        graphs.none(graph),
        graphs.Edges("one", frozenset([graph.number[one]])),
    ]
    table = pl.concat(u.compute()["effects"] for u in graphs.units(graph, forest, wanted, source))
    found = {p: rows.sort("example_id")["effect"].to_numpy() for (p,), rows in table.group_by("position")}
    sweep = sources.Sweep([Site(0, "resid_pre")], source, metrics=("target",))
    total = pl.concat(effects.total(lm, forest, block, sweep) for block in forest.blocks)
    units = paths.units(graph, forest, [one], sources.Sweep(nodes, source, metrics=("target",)))
    path = pl.concat(unit.compute()["effects"] for unit in units)
    assert np.abs(found["nothing"]).max() < 1e-4
    assert found["none"] == pytest.approx(total.sort("example_id")["effect"].to_numpy(), abs=2e-4)
    assert found["one"] == pytest.approx(path.sort("example_id")["effect"].to_numpy(), abs=2e-4)
