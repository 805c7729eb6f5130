"""The store and the journal: what is read back is what was written, or it is noticed."""

import json
import os
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biasscope.engine.errors import DamagedError, LockedError
from biasscope.engine.schemas import SCORES
from biasscope.engine.store import journal, runs, shards
from tests.support.stored import ASKED, filled, scores

CHANGES = {
    **{
        f"model.{name}": {"model": {**ASKED["model"], name: "other"}}
        for name in ("name", "revision", "digest")
    },
    **{name: {name: "other"} for name in ASKED if name not in ("model", "examples")},
    "examples": {"examples": ["b", "a"]},
    "one example less": {"examples": ["a"]},
}


def intact(folder: Path) -> dict[str, pl.DataFrame]:
    """The units that the journal still vouches for, read back."""
    found = journal.Journal.read(folder)
    found.check()
    return {unit: found.get(unit, "scores") for unit in found.units}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_each_field_of_the_identity_changed_alone_reuses_nothing(changed, tmp_path):
    filled(tmp_path)
    with journal.opened(tmp_path, journal.identity("baseline", **(ASKED | changed))) as found:
        assert not found.units and not found.facts


@pytest.mark.parametrize("name", [*journal.LIBRARIES, "SCHEMA_VERSION", "ALGORITHM_VERSION", "command"])
def test_another_version_or_command_reuses_nothing(name, monkeypatch):
    key = journal.run_key(journal.identity("baseline", **ASKED))
    assert journal.run_key(journal.identity("baseline", **dict(reversed(ASKED.items())))) == key
    version = journal.importlib.metadata.version
    monkeypatch.setattr(journal.importlib.metadata, "version", lambda p: "0" if p == name else version(p))
    if name.isupper():
        monkeypatch.setattr(journal, name, 99)
    assert journal.run_key(journal.identity("patch" if name == "command" else "baseline", **ASKED)) != key


def test_an_unchanged_identity_finds_every_unit(tmp_path):
    folder = filled(tmp_path)
    assert {unit: frame["value"][0] for unit, frame in intact(folder).items()} == {
        f"B{n:05}": float(n) for n in range(6)
    }


def test_why_nothing_is_reused_can_be_said(tmp_path):
    filled(tmp_path)
    other = journal.identity("baseline", **{**ASKED, "seed": 1, "model": {**ASKED["model"], "digest": "zz"}})
    assert journal.nearest(tmp_path, other) == ["model.digest", "seed"]


def test_of_a_thousand_flipped_bits_none_goes_unnoticed(tmp_path):
    folder, rng = filled(tmp_path), random.Random(0)
    original = intact(folder)
    files = sorted(f for f in folder.iterdir() if f.suffix in (".parquet", ".jsonl"))
    noticed = 0
    for _ in range(1000):
        file = rng.choice(files)
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        found = intact(folder)
        assert all(original[unit].equals(frame) for unit, frame in found.items())
        noticed += len(found) < len(original) or bool(journal.Journal.read(folder).damaged)
        file.write_bytes(content)
    assert noticed == 1000


def test_a_flipped_bit_in_the_key_file_is_mended_at_the_next_start(tmp_path):
    folder = filled(tmp_path)
    (folder / "key.json").write_bytes(b'{"seed": 7}')
    with journal.opened(tmp_path, journal.identity("baseline", **ASKED)) as found:
        assert len(found.units) == 6 and json.loads((folder / "key.json").read_bytes())["seed"] == 0


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_journal_cut_in_its_last_line_loses_that_unit_alone_and_takes_new_lines(tmp_path, cut):
    folder = filled(tmp_path)
    file = folder / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    with journal.opened(tmp_path, journal.identity("baseline", **ASKED)) as found:
        assert len(found.units) == 5 + (cut == 1) and not found.damaged
        found.put("B00005", {"scores": scores(5)})
    assert len(intact(folder)) == 6


@pytest.mark.parametrize("missing", ["cut", "gone"])
def test_a_truncated_or_missing_shard_drops_its_unit(tmp_path, missing):
    folder = filled(tmp_path)
    shard = folder / "B00002.scores.parquet"
    shard.unlink() if missing == "gone" else shard.write_bytes(shard.read_bytes()[:-9])
    found = journal.Journal.read(folder)
    found.check()
    assert found.damaged == ["B00002"] and len(found.units) == 5


def test_a_shard_that_changes_after_the_check_is_refused(tmp_path):
    found = journal.Journal.read(filled(tmp_path))
    found.check()
    found.shard("B00001", "scores").write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match="changed while it was read"):
        found.get("B00001", "scores")


def test_tables_come_in_the_order_of_the_units_whatever_was_stored_first(tmp_path):
    with journal.opened(tmp_path, journal.identity("baseline")) as found:
        for number in (3, 1, 2):
            found.put(f"B{number:05}", {"scores": scores(number)})
        assert [frame["value"][0] for frame in found.tables("scores", ["B00001", "B00002", "B00003"])] == [
            1,
            2,
            3,
        ]


def test_a_second_holder_is_refused_at_once_and_fresh_forgets(tmp_path):
    filled(tmp_path)
    asked = journal.identity("baseline", **ASKED)
    with (
        journal.opened(tmp_path, asked),
        pytest.raises(LockedError, match=f"process {os.getpid()} on"),
        journal.opened(tmp_path, asked),
    ):
        pass
    with journal.opened(tmp_path, asked, fresh=True) as found:
        assert not found.units and not list(found.folder.glob("*.parquet"))


@given(st.lists(st.binary(max_size=80) | st.text(max_size=40).map(str.encode), max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_bytes_as_a_journal_are_read_without_a_unit(lines):
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"biasscope-journal-{os.getpid()}"  # noqa: S108
    folder.mkdir(exist_ok=True)
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines))
    assert journal.Journal.read(folder).units == {}
    shutil.rmtree(folder)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_json_as_a_record_is_no_finished_run(value):
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"biasscope-record-{os.getpid()}"  # noqa: S108
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(value), encoding="utf-8")
    assert runs.read(folder) is None
    shutil.rmtree(folder)


def test_every_shard_is_compressed_parquet_with_the_declared_columns(tmp_path):
    file = filled(tmp_path) / "B00000.scores.parquet"
    assert pl.read_parquet(file).schema == SCORES
    assert shards.pq.read_metadata(file).row_group(0).column(0).compression == "ZSTD"
