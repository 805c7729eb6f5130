"""A run's folder: whole or not there, strict, and inside the chosen folder."""

import errno
import itertools
import json
import math
import os

import polars as pl
import pytest
from pydantic import ValidationError

from biasscope.engine.errors import BiasScopeError, DataError, UsageError
from biasscope.engine.experiments.scans import session
from biasscope.engine.schemas import EFFECTS
from biasscope.engine.settings import SILENT, Measure
from biasscope.engine.store import exports, files, runs
from tests.support.stored import record, rows, save


def test_a_saved_run_reads_back_with_its_tables(tmp_path):
    save(record(tmp_path / "run"), effects=EFFECTS.to_frame(), summary=rows({"estimate": 0.5}))
    assert json.loads((tmp_path / "run/run.json").read_text())["datasets"][0]["dropped"] == {"why": 1}
    assert pl.read_parquet(tmp_path / "run/summary.parquet")["estimate"].to_list() == [0.5]
    assert pl.read_parquet(tmp_path / "run/effects.parquet").schema == EFFECTS


def test_a_table_with_other_columns_than_declared_is_refused(tmp_path):
    with pytest.raises(TypeError, match="has columns"):
        save(record(tmp_path / "run"), summary=rows({"estimate": 1.0}).drop("q"))


def test_the_record_comes_last_so_that_a_failed_table_leaves_none(tmp_path, monkeypatch):
    save(record(tmp_path / "run"), summary=rows({}))
    monkeypatch.setattr(os, "fsync", lambda *a: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(BiasScopeError, match="cannot write"):
        save(record(tmp_path / "run"), summary=rows({}))
    assert not (tmp_path / "run/run.json").exists()


def test_a_full_disk_says_what_has_no_room_in_sizes_people_read_and_leaves_nothing_torn(
    tmp_path, monkeypatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        BiasScopeError, match=r"disk full: no room for summary.parquet, \d\S* [kMGT]?B free at .*; make room"
    ):
        save(record(tmp_path / "run"), summary=rows({}))
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(BiasScopeError, match=r"disk full: small.json needs 3 B, "):
        files.write_json(tmp_path / "small.json", {})


def test_a_run_counts_as_finished_only_while_every_table_is_what_was_written(tmp_path):
    save(record(tmp_path / "run"), summary=rows({"estimate": 0.5}))
    assert runs.read(tmp_path / "run") is not None
    table = bytearray((tmp_path / "run/summary.parquet").read_bytes())
    table[len(table) // 2] ^= 1
    (tmp_path / "run/summary.parquet").write_bytes(table)
    assert runs.read(tmp_path / "run") is None


def test_the_record_takes_no_nan_and_no_unknown_field(tmp_path):
    with pytest.raises(ValidationError):
        record(tmp_path, timing={"passes": math.nan})
    with pytest.raises(ValidationError):
        record(tmp_path, surprise=1)


def test_the_seconds_of_a_phase_within_another_are_the_inner_one_s_alone(monkeypatch):
    clock = itertools.count()  # a second a look
    monkeypatch.setattr(session.time, "monotonic", lambda: float(next(clock)))
    run = session.Session(command="c", options=Measure(), own={}, voice=SILENT, slug="m")
    with run.phase("passes"):
        with run.phase("tokens"):
            pass
        with run.phase("passes"):
            pass
    assert run.timing == {"tokens": 1, "passes": 4} and sum(run.timing.values()) == 5


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/root", "..", "a\x1b[31m", "-rf", "nul\0", "", "c:\\x", "é" * 300]
)
def test_no_name_leads_out_of_the_output_folder(name: str, tmp_path):
    path = runs.folder(tmp_path, name, name, "ablate", "f" * 64)
    assert path.resolve().is_relative_to(tmp_path) and len(path.relative_to(tmp_path).parts) == 4
    assert all(
        part.isascii() and part.isprintable() and len(part) <= 100
        for part in path.relative_to(tmp_path).parts
    )


def test_an_output_folder_that_is_a_file_or_lies_below_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        files.check_writable(tmp_path / "file")
    with pytest.raises(BiasScopeError, match="cannot write to"):
        files.check_writable(tmp_path / "file" / "below")


def test_attribution_file_names_hook_points_and_heads_as_the_original_study(tmp_path):
    z, mlp = {"component": "z", "layer": 5}, {"component": "mlp_out", "layer": 5}
    summary = rows(
        {**z, "estimate": -1.0},
        {**z, "head": 3, "estimate": 0.5},
        {**mlp, "estimate": 2.0},
        {**z, "statistic": "slope"},
    )
    (file,) = exports.export(tmp_path, "patch", "winogender", summary)
    assert file.name == "attribution_patching_winogender.json"
    assert json.loads(file.read_text()) == {
        "blocks.5.attn.hook_z": -1.0,
        "blocks.5.attn.hook_z.3": 0.5,
        "blocks.5.hook_mlp_out": 2.0,
    }


def test_the_original_studys_files_hold_no_edges_no_parts_of_heads_and_nothing_behind_a_head(tmp_path):
    z = {"component": "z", "layer": 5, "head": 3}
    others = [{**z, "component": component, "estimate": 9.0} for component in ("edge", "pattern", "neuron")]
    (file,) = exports.export(tmp_path, "patch", "d", rows({**z, "estimate": 0.5}, *others))
    assert json.loads(file.read_text()) == {"blocks.5.attn.hook_z.3": 0.5}
    assert exports.export(tmp_path, "patch", "d", rows(*others)) == []
    behind = {**z, "method": "conditional", "position": "behind L1H0", "estimate": 9.0}
    exports.export(tmp_path, "ablate", "d", rows({**z, "estimate": 0.5}, behind))
    assert json.loads((tmp_path / "head_ablations_d.json").read_text()) == {"5_3": 0.5}


def test_ablation_files_hold_the_mean_effect_on_target_by_head_and_by_layer(tmp_path):
    head, mlp = {"component": "z", "layer": 5, "head": 3}, {"component": "mlp_out", "layer": 7}
    exports.export(
        tmp_path,
        "ablate",
        "d",
        rows({**head, "estimate": 0.5}, {**head, "metric": "kl", "estimate": 9.0}, {**mlp, "estimate": -2.0}),
    )
    assert json.loads((tmp_path / "head_ablations_d.json").read_text()) == {"5_3": 0.5}
    assert json.loads((tmp_path / "mlp_ablations_d.json").read_text()) == {"7": -2.0}


def test_summary_json_is_merged_by_dataset_and_keeps_the_others(tmp_path):
    (tmp_path / "summary.json").write_text('{"other": {"baseline": 1}}')
    part = {"subset": "someone only", "estimate": 7.0}
    exports.export(
        tmp_path,
        "baseline",
        "winogender",
        rows({"estimate": 0.25}, part, {"statistic": "slope", "estimate": 0.6}),
    )
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found == {"other": {"baseline": 1}, "winogender": {"baseline": 0.25, "slope": 0.6}}


def test_published_scores_stand_in_summary_json_by_their_names(tmp_path):
    scores = [
        {"metric": "stereoset", "statistic": name, "estimate": value}
        for name, value in (("lms", 90.0), ("ss", 60.0), ("icat", 72.0))
    ]
    exports.export(
        tmp_path,
        "baseline",
        "stereoset",
        rows(*scores, {"metric": "stereoset", "statistic": "ss_pooled", "estimate": 1.0}),
    )
    assert json.loads((tmp_path / "summary.json").read_text())["stereoset"] == {
        "lms": 90.0,
        "ss": 60.0,
        "icat": 72.0,
    }


def test_a_broken_summary_json_is_named_and_not_overwritten(tmp_path):
    (tmp_path / "summary.json").write_text("{torn")
    with pytest.raises(DataError, match="is not JSON"):
        exports.export(tmp_path, "baseline", "d", rows({"estimate": 0.25}))
    assert (tmp_path / "summary.json").read_text() == "{torn"
