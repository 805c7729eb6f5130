"""Circuits of others: the graph format of EAP-IG and of the MIB benchmark's circuit track, written and read.

A file holds `cfg`, `nodes` (name → in_graph) and `edges` (name → score, in_graph). There keys and values are
named by query heads: of grouped queries each head of a group has an equal share of its key's (or value's)
score.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.between import circuits
from biasscope.engine.experiments.scans import selection, session
from biasscope.engine.experiments.scans.scan import scans
from biasscope.engine.settings import Measure, Method, Voice
from biasscope.engine.store import digests, files, runs
from biasscope.engine.types import FINAL, Edge, Site

if TYPE_CHECKING:
    from biasscope.engine.model.stream import Stream


def names(edge: Edge, group: int) -> list[str]:
    """The names of an edge: one, or one a query head; `group`: query heads of a key-value head."""
    up, down = _node(edge.up), edge.down
    if down.component == FINAL:
        return [f"{up}->logits"]
    if down.component == "mlp_in":
        return [f"{up}->m{down.layer}"]
    part = down.head or 0
    heads = [part] if down.component == "q" else range(part * group, (part + 1) * group)
    return [f"{up}->a{down.layer}.h{head}<{down.component}>" for head in heads]


def _node(site: Site) -> str:
    if site.component == "resid_pre":
        return "input"
    return f"a{site.layer}.h{site.head}" if site.component == "z" else f"m{site.layer}"


def graph(edges: pl.DataFrame, model: runs.ModelPart, chosen: Sequence[int]) -> dict[str, Any]:
    """The document of EDGES (over all positions), with these edges in the circuit."""
    rows = edges.filter(position="all").sort("edge")
    kv = rows.filter(down_component="k")["down_head"].max()
    group = model.heads // (int(kv) + 1) if isinstance(kv, int) else 1
    inside, found, nodes = set(chosen), dict[str, Any](), dict[str, bool]()
    for row in rows.iter_rows(named=True):
        up, down = (
            Site(*(row[f"{end}_{n}"] for n in ("layer", "component", "head"))) for end in ("up", "down")
        )
        every = names(Edge(up, down), group)
        for name in every:
            score = None if row["estimate"] is None else row["estimate"] / len(every)
            found[name] = {"score": score, "in_graph": row["edge"] in inside}
            for node in (name.split("->")[0], name.split("->")[1].split("<")[0]):
                nodes[node] = nodes.get(node, False) or row["edge"] in inside
    cfg = {
        "model_name": model.name,
        "n_layers": model.layers,
        "n_heads": model.heads,
        "n_key_value_heads": model.heads // group,
        "d_model": model.d_model,
        "parallel_attn_mlp": "a0.h0->m0" not in found,
    }
    return {"cfg": cfg, "nodes": {name: {"in_graph": kept} for name, kept in nodes.items()}, "edges": found}


def refuse_other_edges(method: Method, settings: Measure, positions: Sequence[str]) -> None:
    """Raise UsageError where a run does not give the edges of one data set over all positions."""
    if method != "edges" or len(settings.dataset or []) > 1 or "all" not in positions:
        raise UsageError(
            "--mib writes the edges of one dataset over all positions: it needs --method edges, one "
            "--dataset and 'all' among --positions"
        )


def write(path: Path, record: runs.RunRecord, folder: Path, chosen: Sequence[int] | None = None) -> None:
    """Write a run's edges; in the circuit are the chosen ones, else those with a star."""
    edges = pl.read_parquet(folder / "edges.parquet")
    if record.model is None or record.model.d_model is None:
        raise DataError(
            f"{folder} does not tell its model's width (an older version); measure it again: --fresh"
        )
    inside = edges.filter(schemas.starred())["edge"].to_list() if chosen is None else chosen
    files.write_json(path, graph(edges, record.model, inside))


def read(path: Path, stream: "Stream") -> tuple[list[int], int, str]:
    """The graph's edges, those of the file's circuit first and each by |score|, how many those are, and the
    model that the file says it is of, where it does.

    DataError where the file is no such graph, or of another architecture.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        given: Mapping[str, Mapping[str, Any]] = document["edges"]
        values = {name: (bool(e["in_graph"]), abs(e.get("score") or 0.0)) for name, e in given.items()}
        owner = str(document.get("cfg", {}).get("model_name") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no graph of EAP-IG or MIB ({type(error).__name__}: {error}); it holds cfg, nodes and "
            "edges with score and in_graph"
        ) from error
    group = stream.lm.n_heads // stream.lm.n_kv
    ours = [names(edge, group) for edge in stream.edges]
    known = {name for same in ours for name in same}
    if strange := sorted(values.keys() - known):
        raise DataError(f"{path}: {stream.lm.name} has no edge {strange[0]}; give the model of the file")
    keys = []
    for same in ours:
        parts = [values.get(name, (False, 0.0)) for name in same]
        keys.append((any(inside for inside, _ in parts), sum(score for _, score in parts)))
    order = sorted(range(len(keys)), key=lambda n: (not keys[n][0], -keys[n][1], n))
    return order, sum(inside for inside, _ in keys), owner


def circuit(settings: Measure, file: str, sizes: str, voice: Voice) -> runs.Result:
    """How much of the bias the edges of a file carry, over all groups: somebody else chose them elsewhere."""
    from biasscope.engine.measure.between import edges

    path = Path(file)
    if not path.is_file():
        raise UsageError(f"there is no file {file}; give a run, or a graph of EAP-IG or MIB")
    wanted = selection.parse_sizes(sizes)
    options = {"from": file, "sizes": sizes, "minimal": False, "target": None}
    running = session.start("circuit", settings, options, voice)
    digest = digests.of_file(path)
    for each in scans(running, **{**options, "from": digest, "sizes": list(wanted)}):
        if not each.complete:
            order, inside, owner = read(path, edges.stream(each.run.lm))
            own = each.run.lm.name
            if owner and files.slug(owner).lower() != files.slug(own).lower():
                each.warn(f"{file} says it is of {owner}; its edges are measured in {own}")
            source = "mean" if each.dataset.rule == "none" else "corrupt"
            halves = circuits.Halves(each, each, source, None, order)
            every = sorted({*wanted, *([inside] if inside else [])})
            circuits.measure(each, halves, every, circuits.refusing(each, source))
        each.save(circuits.summary(each))
    return running.finish()
