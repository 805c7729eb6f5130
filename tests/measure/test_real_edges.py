"""Edges of the real model on real data: what L26H2 reads, and that estimates are path patching's."""

import numpy as np
import polars as pl
import pytest

from biasscope.engine.data import datasets, download
from biasscope.engine.measure import sources
from biasscope.engine.measure.between import edges, paths
from biasscope.engine.model import tokens, twins
from biasscope.engine.statistics import edges as statistics
from biasscope.engine.types import Design, Site

pytestmark = pytest.mark.real


def test_l26h2_reads_the_occupation_as_its_value(real_model, shared_data, tmp_path):
    lm = real_model
    download.download("winogender", tmp_path, local=shared_data)
    data = datasets.load("winogender", tmp_path, limit=40)
    kept, _ = twins.fit(lm, data, 0)
    known = [e for e in data.examples if e.id in kept]
    prompts = {id_: twin.prompt for id_, twin in kept.items()}
    forest = tokens.forest(lm, known, share="example", twins=prompts)
    graph = edges.stream(lm)
    assert len(graph.edges) == 70_651
    nodes = sorted({sources.whole(site) for site in graph.ups})
    sweep = sources.Sweep(nodes, sources.corrupt(lm, nodes), metrics=("target",))
    tables = [unit.compute()["groups"] for unit in edges.units(graph, forest, sweep)]
    slopes = statistics.estimate(statistics.Sums.of(tables, "all"), Design(data.covariate))
    into = {
        name: sum(slopes[n] for n, e in enumerate(graph.edges) if e.down == Site(26, name, head))
        for name, head in (("q", 2), ("k", 0), ("v", 0))
    }
    assert into["v"] < -0.15 and abs(into["q"]) < 0.1 and abs(into["k"]) < 0.1
    best = [graph.edges[n] for n in np.argsort(-np.abs(slopes))[:2]]
    exact = pl.concat(unit.compute()["effects"] for unit in paths.units(graph, forest, best[:1], sweep))
    mean = exact["effect"].mean()
    total = sum(np.array(table["values"].to_list())[:, graph.number[best[0]]].sum() for table in tables)
    assert mean * exact.height == pytest.approx(total, rel=0.1)
