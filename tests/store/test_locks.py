"""A run is held by one process at a time: of one host by the system's lock, over a network by a marker file
that is never taken from another host.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from biasscope.engine.errors import LockedError
from biasscope.engine.store import cache, locks
from tests.support.cli import biasscope

MARK = locks.LOCK + locks.MARK
HOLD = (
    "import sys, os; from pathlib import Path; from biasscope.engine.store import locks\n"
    "locks.MOUNTS = Path(sys.argv[2])\n"
    "with locks.held(Path(sys.argv[1])): print(flush=True); sys.stdin.read() and os._exit(9)"
)


def mounts(*lines: str) -> str:
    """A mount table: each line is a place and what is mounted there."""
    text = "{n} 1 0:{n} / {place} rw,relatime shared:1 - {kind} server:/export rw\n"
    parts = (line.rsplit(" ", 1) for line in lines)
    return "".join(text.format(n=n, place=place, kind=kind) for n, (place, kind) in enumerate(parts))


@pytest.fixture
def networked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the system says is mounted over NFS."""
    (tmp_path / "mounts").write_text(mounts("/ ext4", f"{tmp_path} nfs4"))
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (["/ ext4"], ""),
        (["/ ext4", "/data lustre"], "lustre"),
        (["/ nfs4", "/data ext4"], ""),
        (["/data nfs4", "/data ext4"], ""),
        (["/ ext4", "/dat cifs"], ""),
        (["/ ext4", r"/data/my\040cache fuse.sshfs"], "fuse.sshfs"),
        (["/ ext4", "/data fuse.portal"], ""),
    ],
    ids=["local", "network", "local in network", "covered", "other folder", "space", "local fuse"],
)
def test_the_mount_that_a_folder_lies_on_decides(table: list[str], kind: str, tmp_path: Path, monkeypatch):
    (tmp_path / "mounts").write_text(mounts(*table))
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    assert locks.network(Path("/data/my cache/runs")) == kind


def test_a_system_without_a_list_of_mounts_is_taken_for_local(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "none")
    assert locks.network(tmp_path) == ""


def test_a_marker_names_the_process_and_keeps_others_out_until_it_is_given_back(networked: Path):
    start = [sys.executable, "-c", HOLD, str(networked), str(locks.MOUNTS)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        assert str(other.pid) in (networked / MARK).read_text() and cache.entries(networked.parent) == []
        # what the network may do to the system's lock: nothing is held by it
        (networked / locks.LOCK).unlink()
        with (
            pytest.raises(LockedError, match=f"process {other.pid} on .*remove .*{MARK}"),
            locks.held(networked),
        ):
            pass
        assert locks.locked(networked)
        other.stdin.close()
    with locks.held(networked):
        assert (networked / MARK).is_file()
    assert not (networked / MARK).exists() and not locks.locked(networked)


def test_a_marker_of_a_dead_process_of_this_host_is_removed(networked: Path):
    start = [sys.executable, "-c", HOLD, str(networked), str(locks.MOUNTS)]
    assert subprocess.run(start, input="die", text=True, capture_output=True, check=False).returncode == 9
    assert (networked / MARK).is_file()
    with locks.held(networked):
        assert json.loads((networked / locks.HOLDER).read_text())["pid"] > 0


@pytest.mark.parametrize("local", [False, True], ids=["over the network", "on the server itself"])
def test_a_marker_of_another_host_is_never_taken(networked: Path, local: bool, monkeypatch):
    networked.mkdir()
    (networked / MARK).write_text("999999\nanother-host\n")
    if local:
        monkeypatch.setattr(locks, "MOUNTS", networked / "none")
    with pytest.raises(LockedError, match=f"remove {networked / MARK}"), locks.held(networked):
        pass
    assert (networked / MARK).read_text() == "999999\nanother-host\n"


def test_a_shared_file_that_another_host_keeps_is_given_up_with_its_name(networked: Path, monkeypatch):
    networked.mkdir()
    (networked / f"index{locks.MARK}").write_text("999999\nanother-host\n")
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with (
        pytest.raises(LockedError, match=f"remove .*index{locks.MARK}"),
        locks.exclusive(networked / "index"),
    ):
        pass


def test_a_command_says_how_its_runs_are_held_and_leaves_no_marker(networked: Path, tmp_path: Path):
    what = ("--model", "planted:single", "--dataset", "occupations", "--limit", "24")
    _, _, err = biasscope("baseline", *what, "-o", tmp_path / "r", "--cache-dir", networked)
    assert "the cache is on nfs4, a network" in err
    assert (tmp_path / "r").is_dir() and not list(tmp_path.rglob(f"*{locks.MARK}"))
