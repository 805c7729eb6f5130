"""Downloads against a host on the loopback: what is stored, what is refused, and that nothing torn is
left.
"""

import json
from pathlib import Path

import pytest

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import stereoset, winogender
from biasscope.engine.data.download import download
from biasscope.engine.errors import BiasScopeError, DataError, NetworkError, UsageError
from biasscope.engine.store import digests
from tests.support.hosted import HUB_ORDER, hub_path, left
from tests.support.servers import Host, host
from tests.support.tiny_data import (
    intrasentence,
    numbered,
    publish_stereoset,
    sentences,
    write_lists,
    write_parquet,
    write_winogender,
)

pytestmark = pytest.mark.usefixtures("no_environment")


def test_stereoset_from_the_hub_can_be_loaded(hub: Host, folder: Path) -> None:
    record = download("stereoset", folder, hub_url=hub.url)
    assert len(datasets.load("stereoset", folder).examples) == 6
    assert left(folder) == [
        "stereoset",
        "stereoset/intersentence.json",
        "stereoset/intrasentence.json",
        "stereoset/record.json",
    ]
    assert record["notes"] == []
    assert not record["reused"]


def test_winogender_from_the_raw_host_can_be_loaded(raw: Host, folder: Path) -> None:
    download("winogender", folder, raw_url=raw.url)
    assert [e.id for e in datasets.load("winogender", folder).examples] == ["baker.guest.0", "baker.guest.1"]
    assert len(left(folder)) == 5


def test_the_record_says_what_where_and_under_which_licence(hub: Host, folder: Path) -> None:
    download("stereoset", folder, hub_url=hub.url)
    record = json.loads((folder / "stereoset" / "record.json").read_text())
    assert (record["source"], record["licence"], record["revision"]) == (
        "stereoset",
        "CC BY-SA 4.0",
        stereoset.ORIGIN.revision,
    )
    assert record["content"] == dict(stereoset.ORIGIN.digests)
    assert record["files"]["intrasentence.json"] == digests.of_file(
        folder / "stereoset" / "intrasentence.json"
    )


def test_a_second_call_asks_the_network_for_nothing(hub: Host, folder: Path) -> None:
    download("stereoset", folder, hub_url=hub.url)
    before = len(hub.seen)
    assert download("stereoset", folder, hub_url=hub.url)["reused"]
    assert len(hub.seen) == before


def test_present_data_needs_no_network_offline(raw: Host, folder: Path) -> None:
    download("winogender", folder, raw_url=raw.url)
    assert download("winogender", folder, offline=True)["reused"]


@pytest.mark.parametrize("name", ["intrasentence.json", "record.json"])
def test_a_damaged_file_is_named_and_fetched_again(hub: Host, folder: Path, name: str) -> None:
    download("stereoset", folder, hub_url=hub.url)
    (folder / "stereoset" / name).write_text("[1")
    again = download("stereoset", folder, hub_url=hub.url)
    assert [name in line for line in again["damaged"]] == [True]
    assert len(datasets.load("stereoset", folder).examples) == 6


def test_a_missing_file_is_fetched_again(raw: Host, folder: Path) -> None:
    download("winogender", folder, raw_url=raw.url)
    (folder / "winogender" / winogender.TEMPLATES).unlink()
    assert "missing" in download("winogender", folder, raw_url=raw.url)["damaged"][0]
    assert (folder / "winogender" / winogender.TEMPLATES).is_file()


def test_fresh_downloads_again(raw: Host, folder: Path) -> None:
    download("winogender", folder, raw_url=raw.url)
    assert not download("winogender", folder, raw_url=raw.url, fresh=True)["reused"]
    assert raw.gets() == 6


def test_an_interrupted_download_leaves_nothing_and_the_next_completes(raw: Host, folder: Path) -> None:
    raw.plan = ["ok", "cut", "cut", "cut"]
    with pytest.raises(NetworkError):
        download("winogender", folder, raw_url=raw.url)
    assert left(folder) == []
    download("winogender", folder, raw_url=raw.url)
    assert len(datasets.load("winogender", folder).examples) == 2


def test_hub_content_that_is_not_the_published_one_is_refused_naming_both(
    hub: Host, folder: Path, tmp_path: Path
) -> None:
    changed = [r | {"target": "cook"} for r in intrasentence()]
    hub.files[hub_path("intrasentence")] = write_parquet(
        tmp_path / "x.parquet", numbered(changed, HUB_ORDER), names=HUB_ORDER
    )
    with pytest.raises(DataError, match="--fresh") as error:
        download("stereoset", folder, hub_url=hub.url)
    assert stereoset.ORIGIN.digests["intrasentence"] in str(error.value)
    assert left(folder) == []


def test_right_content_with_another_checksum_is_accepted_with_a_note(
    hub: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_stereoset(
        monkeypatch,
        intrasentence="0" * 64,
        intersentence=digests.of_bytes(hub.files[hub_path("intersentence")]),
    )
    notes = download("stereoset", folder, hub_url=hub.url)["notes"]
    assert len(notes) == 1
    assert "0" * 64 in notes[0]


def test_a_failed_fresh_download_keeps_the_old_files(raw: Host, folder: Path) -> None:
    download("winogender", folder, raw_url=raw.url)
    raw.always = "error"
    with pytest.raises(NetworkError):
        download("winogender", folder, raw_url=raw.url, fresh=True)
    assert download("winogender", folder, offline=True)["reused"]


@pytest.mark.parametrize("place", ["data", "data/winogender"])
def test_an_unwritable_folder_fails_before_the_network(raw: Host, folder: Path, place: str) -> None:
    blocked = folder.parent / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where a folder should be")
    with pytest.raises(BiasScopeError, match="cannot write") as error:
        download("winogender", folder, raw_url=raw.url)
    assert error.value.exit_code == 1
    assert raw.seen == []


def test_progress_is_reported_through_track(raw: Host, folder: Path) -> None:
    calls = []

    def track(units: list, label: str) -> list:
        calls.append((len(units), label))
        return units

    download("winogender", folder, raw_url=raw.url, track=track)
    assert calls == [(3, "downloading winogender")]


def test_an_unknown_source_gets_a_suggestion(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'stereoset'"):
        download("stereo-set", folder)


def test_leftovers_of_a_killed_download_are_swept(
    raw: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".download-old").mkdir(parents=True)
    monkeypatch.setattr("biasscope.engine.data.download.STALE_S", -1)
    download("winogender", folder, raw_url=raw.url)
    assert not (folder / ".download-old").exists()


def test_every_container_is_stored_as_the_same_bytes(hub: Host, folder: Path, tmp_path: Path) -> None:
    write_lists(tmp_path / "copy")
    files = download("stereoset", folder, hub_url=hub.url)["files"]
    assert download("stereoset", folder, local=tmp_path / "copy")["files"] == files


@pytest.mark.parametrize("place", ["", "winogender", "data"])
def test_winogender_is_taken_from_a_folder(raw: Host, folder: Path, tmp_path: Path, place: str) -> None:
    write_winogender(tmp_path / "copy" / place)
    assert len(download("winogender", folder, local=tmp_path / "copy")["files"]) == 3
    assert raw.seen == []


def test_a_changed_local_winogender_is_refused(raw: Host, folder: Path, tmp_path: Path) -> None:
    copy = write_winogender(tmp_path / "copy", sentences=sentences().replace("oven", "cake"))
    with pytest.raises(DataError, match=r"(?s)content digest.*expected"):
        download("winogender", folder, local=copy)
    assert left(folder) == []


@pytest.mark.real
def test_the_real_lists_as_hub_parquet_give_the_published_content(
    shared_data: Path, folder: Path, tmp_path: Path
) -> None:
    with host() as server:
        for split in ("intrasentence", "intersentence"):
            records = numbered(json.loads((shared_data / f"stereoset_{split}.json").read_text()), HUB_ORDER)
            server.files[hub_path(split)] = write_parquet(
                tmp_path / f"{split}.parquet", records, names=HUB_ORDER
            )
        record = download("stereoset", folder, hub_url=server.url)
    # Our own Parquet has other bytes than the hub's: the content decides, the checksum is noted.
    assert record["content"] == dict(stereoset.ORIGIN.digests)
    assert len(record["notes"]) == 2


@pytest.mark.real
def test_the_real_winogender_has_the_published_checksums(shared_data: Path, folder: Path) -> None:
    files = download("winogender", folder, local=shared_data)["files"]
    assert files == {file.name: file.sha256 for file in winogender.ORIGIN.files}
