"""`patch --method edges` and `circuit` over edges on a planted model; graphs as files."""

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.data.datasets import occupations
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.circuit import circuit
from biasscope.engine.experiments.pairs import pairs
from biasscope.engine.experiments.patch import patch
from biasscope.engine.model import planted
from biasscope.engine.settings import Measure
from biasscope.engine.store import shards
from biasscope.engine.types import EDGE
from biasscope.report import formats
from biasscope.report.edges import ends, sentence
from biasscope.report.page.gather import ReportRun

PLANTED = ["embed → L1KV2.v", "L1H2 → logits"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Measure:
    folder = tmp_path_factory.mktemp("edges")
    places = {"cache_dir": folder / "cache", "output_dir": folder / "results"}
    return Measure("planted:single", ["occupations"], 60, device="cpu", **places)


@pytest.fixture(scope="module")
def run(settings, few_draws):
    file = settings.output_dir.parent / "graph.json"
    return patch(settings, method="edges", calibrate=5, mib=file), file


def test_planted_edges_have_the_star_and_their_paths_agree(run):
    (part,) = run[0].record.datasets
    edges = pl.read_parquet(Path(part.path) / "edges.parquet")
    assert edges.schema == shards.SCHEMAS["edges"] and edges.height == 479
    assert sorted(str(ends(row)) for row in edges.head(2).iter_rows(named=True)) == sorted(PLANTED)
    first = edges.row(0, named=True)
    assert first["p_family"] < 0.05 and first["exact"] == pytest.approx(first["estimate"], abs=1e-3)
    assert edges["exact"].is_not_null().sum() == 10


def test_the_summary_holds_the_strongest_and_the_total(run):
    (summary,) = run[0].summaries
    assert summary.row(0, named=True)["component"] == "total"
    rows = summary.filter(component=EDGE, method="edges", statistic="slope")
    assert rows.height == 100 and rows["ci_low"].is_not_null().all()
    reliability = run[0].reliability[0]
    assert reliability.filter(quantity="family_sites")["estimate"].item() == 479
    assert reliability.filter(quantity="calibration_spearman").height == 1


def test_a_circuit_of_edges_keeps_with_two_edges_what_the_model_does(run, settings):
    (part,) = run[0].record.datasets
    result = circuit(settings, part.path, sizes="2,10")
    (summary,) = result.summaries
    f = {(r["method"], r["subset"]): r["estimate"] for r in summary.iter_rows(named=True)}
    assert f["keep", "top 2"] == pytest.approx(1, abs=0.05) and f["remove", "top 2"] == pytest.approx(
        0, abs=0.05
    )
    assert f["keep", "random 2"] == pytest.approx(0, abs=0.05)
    graph = pl.read_parquet(Path(result.record.datasets[0].path) / "graph.parquet")
    assert set(PLANTED) <= {str(ends(row)) for row in graph.iter_rows(named=True)}


def test_a_graph_file_is_written_as_others_read_it_and_evaluated_when_it_comes_back(run, settings):
    document = json.loads(run[1].read_text())
    assert document["cfg"]["n_layers"] == 4 and len(document["edges"]) == 479
    inside = {name for name, edge in document["edges"].items() if edge["in_graph"]}
    assert inside >= {"input->a1.h2<v>", "a1.h2->logits"}
    assert all(document["nodes"][name]["in_graph"] for name in ("a1.h2", "input", "logits"))
    result = circuit(settings, str(run[1]), sizes="10")
    f = {(r["method"], r["subset"]): r["estimate"] for r in result.summaries[0].iter_rows(named=True)}
    assert f["keep", f"top {len(inside)}"] == pytest.approx(1, abs=0.05)
    document["edges"]["a9.h9->logits"] = {"score": 1.0, "in_graph": True}
    run[1].with_name("other.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="has no edge a9.h9->logits"):
        circuit(settings, str(run[1].with_name("other.json")), sizes="10")


def test_a_graph_file_names_what_eap_igs_reader_builds_from_its_configuration(run):
    """Its Graph.from_json: the graph of these four numbers, then `in_graph` of each node and edge by name."""
    document = json.loads(run[1].read_text())
    cfg = document["cfg"]
    heads, before, wanted = range(cfg["n_heads"]), ["input"], set[str]()
    assert cfg["d_model"] == 64 and not cfg["parallel_attn_mlp"]
    for layer in range(cfg["n_layers"]):
        wanted |= {f"{up}->a{layer}.h{head}<{part}>" for up in before for head in heads for part in "qkv"}
        before += [f"a{layer}.h{head}" for head in heads]
        wanted |= {f"{up}->m{layer}" for up in before}
        before.append(f"m{layer}")
    assert document["edges"].keys() == wanted | {f"{up}->logits" for up in before}
    assert document["nodes"].keys() == {*before, "logits"}
    assert all(isinstance(node["in_graph"], bool) for node in document["nodes"].values())


def test_a_task_file_has_each_pair_and_calls_right_the_pronoun_of_its_side(settings, tmp_path):
    rows = pairs(settings, mib=tmp_path)
    with (tmp_path / "occupations.csv").open(encoding="utf-8") as file:
        task = list(csv.DictReader(file))
    assert [(row["clean"], row["corrupted"]) for row in task] == [
        (r["clean"], r["twin"]) for r in rows if r["kept"]
    ]
    men = occupations.read("occupations", tmp_path).covariate
    tokenizer = planted.tokenizer(planted.words())
    for row in task:
        right, wrong = (tokenizer.decode([int(row[f"{name}_idx"])]) for name in ("correct", "incorrect"))
        male = men[row["group"]] > men[row["partner"]]
        assert (right.strip() in ("he", "his", "him"), wrong.strip() in ("she", "her")) == (male, male)
    assert {men[row["group"]] > men[row["partner"]] for row in task} == {True, False}


def test_a_circuit_that_is_reused_writes_its_graph_all_the_same(run, settings, tmp_path):
    (part,) = run[0].record.datasets
    for file in (tmp_path / "first.json", tmp_path / "again.json"):
        circuit(settings, part.path, sizes="2,10", mib=file)
        edges = json.loads(file.read_text())["edges"]
        assert sum(edge["in_graph"] for edge in edges.values()) == 10
        assert edges["input->a1.h2<v>"]["in_graph"]
    with pytest.raises(UsageError, match="only evaluated: leave out --minimal"):
        circuit(settings, str(file), minimal=True)
    with pytest.raises(UsageError, match="only evaluated: leave out --mib"):
        circuit(settings, str(file), mib=file)


def test_a_file_of_edges_was_chosen_elsewhere_and_the_table_says_so(run, settings):
    (part,) = run[0].record.datasets
    for source, words in ((part.path, "that did not choose"), (str(run[1]), "chosen elsewhere; groups: all")):
        (table,) = formats.tables_of(circuit(settings, source, sizes="10"))
        assert words in table.notes[0]
        assert any("strongest first: " in note and PLANTED[0] in note for note in table.notes)


def test_a_file_of_edges_of_another_model_is_said_to_be_so(run, settings, tmp_path):
    document = json.loads(run[1].read_text())
    document["cfg"]["model_name"] = "gpt2"
    (tmp_path / "other.json").write_text(json.dumps(document))
    said = [
        circuit(settings, str(file), sizes="10").record.warnings for file in (run[1], tmp_path / "other.json")
    ]
    assert ["says it is of gpt2" in " ".join(texts) for texts in said] == [False, True]


def test_one_drawn_edge_has_no_correlation_and_the_sentence_none(settings, few_draws):
    result = patch(settings, method="edges", calibrate=1)
    (part,) = result.record.datasets
    named = ReportRun(Path(part.path), result.record, result.summaries[0], result.reliability[0])
    said = sentence(named, pl.read_parquet(Path(part.path) / "edges.parquet"))
    assert "edges with a star" in said and "ρ" not in said


def test_edges_take_no_choice_of_sites(settings):
    with pytest.raises(UsageError, match="--mib writes the edges"):
        patch(settings, method="edges", positions="term", mib=Path("x.json"))
    with pytest.raises(UsageError, match="over all edges"):
        patch(settings, method="edges", layers="0")
    with pytest.raises(UsageError, match="--mib writes the edges"):
        patch(settings, mib=Path("x.json"))


def test_neurons_are_tested_as_a_family_and_the_strongest_measured(settings, few_draws):
    """`single`: MLP 2 adds one base rate to all, so that no neuron carries a slope."""
    result = patch(settings, source="mean", components="neuron", layers="2-3", calibrate=3)
    part, summary = result.record.datasets[0], result.summaries[0]
    neurons = pl.read_parquet(Path(part.path) / "neurons.parquet")
    estimated, exact, *_ = formats.tables_of(result)
    assert any(note.startswith("0 of 128 neurons with a star; all in") for note in estimated.notes)
    assert not any("with a star" in note for note in exact.notes)
    assert neurons.height == 2 * 64 and set(neurons["component"]) == {"neuron"}
    exact = summary.filter(method="exact", statistic="slope")
    assert exact.height == 6 and exact["p_family"].null_count() == 6
    assert result.reliability[0].filter(quantity="calibration_sign").height == 1
    with pytest.raises(UsageError, match="a run of their own"):
        patch(settings, components="neuron,z")
