"""The cache and the results folder: listed, verified, dropped, and never by accident."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from biasscope.engine.errors import DamagedError, LockedError, UsageError
from biasscope.engine.store import cache as contents
from biasscope.engine.store import digests, journal, locks
from tests.support.cli import biasscope
from tests.support.stored import ASKED, filled, record, rows, save, scores


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with an unfinished run, a finished one and a converted model."""
    filled(tmp_path / "runs")
    with journal.opened(tmp_path / "runs", journal.identity("patch", **ASKED)) as found:
        found.put("B00000", {"scores": scores(0)})
        found.set("finished", {"units": ["B00000"]})
    model = tmp_path / "models" / f"{'ab' * 8}-v{contents.CONVERSION}"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "manifest.json").write_bytes(
        digests.canonical({"config.json": digests.of_file(model / "config.json")})
    )
    return tmp_path


def entry(cache: Path, command: str) -> contents.Entry:
    """The entry of a command's run."""
    return next(e for e in contents.entries(cache) if e.command == command)


def test_ls_says_what_each_entry_is_how_large_and_whether_it_is_finished(cache):
    found = json.loads(biasscope("cache", "ls", "--cache-dir", cache, "--json")[1])
    assert {(row["what"], row["state"]) for row in found} == {
        ("baseline", "unfinished"),
        ("patch", "finished"),
        ("model", "finished"),
    }
    assert all(row["size"] > 0 and row["age"] < 1 for row in found) and {row["model"] for row in found} == {
        "gpt2",
        "",
    }


def test_verify_of_an_undamaged_cache_is_exit_0(cache):
    code, out, err = biasscope("cache", "verify", "--cache-dir", cache, "--json")
    assert (code, json.loads(out)) == (0, []) and "everything" in err


@pytest.mark.parametrize("kind", ["shard", "journal", "model", "remembered"])
def test_verify_lists_damage_with_exit_12_and_repair_drops_it(cache, kind):
    weights = cache / "weights.safetensors"
    weights.write_bytes(b"1234")
    digests.remembered(weights, cache / "digests")
    run = entry(cache, "baseline").path
    note = next((cache / "digests").iterdir())
    files = {
        "shard": run / "B00002.scores.parquet",
        "journal": run / "journal.jsonl",
        "model": next(cache.rglob("config.json")),
    }
    file = files.get(kind, note)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, out, err = biasscope("cache", "verify", "--cache-dir", cache, "--json", ok=False)
    assert code == 12 and len(json.loads(out)) == 1 and "--repair" in err
    assert biasscope("cache", "verify", "--repair", "--cache-dir", cache)[0] == 0
    assert biasscope("cache", "verify", "--cache-dir", cache)[0] == 0


def test_repair_keeps_every_unit_that_is_whole(cache):
    folder = entry(cache, "baseline").path
    (folder / "B00001.scores.parquet").write_bytes(b"PAR1")
    assert len(contents.damage(cache, repair=True)) == 1
    found = journal.Journal.read(folder)
    found.check()
    assert sorted(found.units) == ["B00000", "B00002", "B00003", "B00004", "B00005"] and found.facts == {
        "batch_size": 2048
    }
    assert not (folder / "B00001.scores.parquet").exists()


def test_a_weight_file_swapped_under_the_same_size_and_times_is_found(cache):
    weights = cache / "weights.safetensors"
    weights.write_bytes(b"1234")
    digests.remembered(weights, cache / "digests")
    note = next((cache / "digests").iterdir())
    seen = json.loads(note.read_bytes())["seen"]
    note.write_bytes(
        digests.canonical({"seen": seen, "sha256": "0" * 64, "check": digests.digest([seen, "0" * 64])})
    )
    assert "not what was hashed" in contents.damage(cache)[0]


def test_prune_drops_what_is_old_and_leftovers_but_not_what_is_in_use(cache):
    for name in ("baseline", "patch"):
        for file in entry(cache, name).path.iterdir():
            os.utime(file, (time.time() - 90 * 86400,) * 2)
    leftover = entry(cache, "patch").path / ".x.parquet.9.tmp"
    with locks.held(entry(cache, "baseline").path):
        assert [e.command for e in contents.stale(contents.entries(cache), 30)] == ["patch"]
        leftover.write_bytes(b"")
        assert contents.sweep(cache) == 1
    biasscope("cache", "prune", "--cache-dir", cache, "--dry-run")
    assert len(contents.entries(cache)) == 3
    biasscope("cache", "prune", "--cache-dir", cache)
    assert [e.kind for e in contents.entries(cache)] == ["model"]


def test_a_conversion_of_another_version_is_pruned_whatever_its_age(cache):
    (cache / "models" / "0123456789abcdef-v0").mkdir()
    assert [e.key for e in contents.stale(contents.entries(cache), 30)] == ["0123456789abcdef-v0"]


def test_rm_takes_the_first_characters_of_a_key_and_refuses_what_names_none_or_several(cache):
    key = entry(cache, "patch").key
    with pytest.raises(UsageError, match=r"nothing is called .* one of:"):
        contents.chosen(contents.entries(cache), ["../../etc"])
    with pytest.raises(UsageError, match="names 2 of them"):
        contents.chosen([replace(entry(cache, "patch"), key=key) for key in ("abcd1", "abcd2")], ["abcd"])
    biasscope("cache", "rm", key[:6], "--cache-dir", cache)
    assert len(contents.entries(cache)) == 2 and not (cache / "runs" / key).exists()
    assert biasscope("cache", "rm", "--cache-dir", cache, ok=False)[0] == 2
    biasscope("cache", "rm", "--all", "--cache-dir", cache)
    assert contents.entries(cache) == []


def test_what_is_in_use_is_shown_as_such_and_not_removed(cache):
    found = entry(cache, "patch")
    with locks.held(found.path):
        assert entry(cache, "patch").locked
        with pytest.raises(LockedError, match="process"):
            contents.drop(found)
    assert found.path.is_dir()


def test_runs_are_listed_newest_first_and_damaged_ones_named(tmp_path):
    for number, key in enumerate(("aaaa1111", "bbbb2222")):
        folder = tmp_path / "gpt2/winogender/ablate" / key
        save(record(folder, created=f"2026-01-0{number + 1}T00:00:00+00:00"), summary=rows({"estimate": 0.5}))
    (tmp_path / "gpt2/winogender/patch/cccc3333").mkdir(parents=True)
    (tmp_path / "gpt2/winogender/patch/cccc3333/run.json").write_text("{")
    found = json.loads(biasscope("runs", "ls", "-o", tmp_path, "--json")[1])
    assert {row["seal"] for row in found} == {"not sealed"}
    assert [(row["run"], row["intact"]) for row in found] == [
        ("bbbb2222", True),
        ("aaaa1111", True),
        ("cccc3333", False),
    ]


def test_a_run_is_shown_by_folder_or_first_characters(tmp_path):
    folder = tmp_path / "gpt2/winogender/ablate/aaaa1111"
    save(record(folder), summary=rows({"estimate": 0.5}))
    for name in ("aaaa", "aaaa1111", folder):
        assert (
            json.loads(biasscope("runs", "show", name, "-o", tmp_path, "--json")[1])["reproduce"]
            == "biasscope ablate"
        )
    shown = biasscope("runs", "show", "aaaa", "-o", tmp_path, "--format", "table")[1]
    assert "again        biasscope ablate" in shown and "1 × why" in shown
    assert biasscope("runs", "show", "ffff", "-o", tmp_path, ok=False)[0] == 2


def test_a_run_that_is_not_what_was_written_is_exit_12(tmp_path):
    folder = tmp_path / "gpt2/winogender/ablate/aaaa1111"
    save(record(folder), summary=rows({"estimate": 0.5}))
    (folder / "summary.parquet").write_bytes(b"PAR1")
    assert biasscope("runs", "show", "aaaa", "-o", tmp_path, ok=False)[0] == DamagedError.exit_code


def test_neither_command_imports_torch(cache):
    code = (
        "import sys; from biasscope.cli import main\ntry: main()\nfinally: sys.stderr.write(f'torch: "
        '{"torch" in sys.modules}\')'
    )
    command = [sys.executable, "-c", code, "cache", "verify", "--cache-dir", str(cache)]
    assert "torch: False" in subprocess.run(command, capture_output=True, text=True, check=True).stderr
