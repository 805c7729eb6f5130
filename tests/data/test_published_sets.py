"""The published data sets that are stored file by file: how they come here, and what is refused."""

import re
from pathlib import Path

import pytest

from biasscope.engine.data import datasets
from biasscope.engine.data import download as downloading
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from tests.support.hosted import left
from tests.support.servers import host
from tests.support.tiny_published import TINY, published, serve, write

pytestmark = pytest.mark.usefixtures("no_environment")


@pytest.fixture(params=TINY)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each origin, its tiny files the published ones."""
    published(monkeypatch, request.param, tmp_path / "published")
    return request.param


def first(name: str) -> str:
    """A data set of an origin."""
    return datasets.modules()[name].NAMES[0]


def test_every_raw_origin_but_winogender_is_here() -> None:
    assert {"winogender", *TINY} == {
        m.ORIGIN.name for m in datasets.modules().values() if m.ORIGIN.host == "raw"
    }
    assert set(TINY) <= set(downloading.names())


def test_the_raw_host_gives_what_is_published_and_a_second_call_nothing(name: str, folder: Path) -> None:
    with host() as server:
        serve(server, name)
        record = download(name, folder, raw_url=server.url)
        assert server.gets() == len(TINY[name]())
    assert datasets.load(first(name), folder).examples
    assert record["content"] == dict(datasets.modules()[name].ORIGIN.digests)
    assert download(name, folder, offline=True)["reused"]


@pytest.mark.parametrize("place", ["", "{name}", "repository"])
def test_copies_are_taken_from_a_folder_wherever_they_lie_in_it(
    name: str, folder: Path, tmp_path: Path, place: str
) -> None:
    copy = tmp_path / "copy"
    for file in datasets.modules()[name].ORIGIN.files:
        at = copy / file.path if place == "repository" else copy / place.format(name=name) / file.name
        write(at.parent, {at.name: TINY[name]()[file.name]})
    assert download(name, folder, local=copy)["files"].keys() == TINY[name]().keys()
    assert datasets.load(first(name), folder).examples


def test_a_changed_text_is_refused_naming_both_digests(name: str, folder: Path, tmp_path: Path) -> None:
    changed = {file: re.sub(r"\b(met|because)\b", "saw", text) for file, text in TINY[name]().items()}
    with pytest.raises(DataError, match=r"(?s)content digest \w{64}, expected \w{64}"):
        download(name, folder, local=write(tmp_path / "copy", changed))
    assert left(folder) == []


def test_a_damaged_file_is_named_and_mended(name: str, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "copy", TINY[name]())
    download(name, folder, local=tmp_path / "copy")
    damaged = folder / name / next(iter(TINY[name]()))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    again = download(name, folder, local=tmp_path / "copy")
    assert [damaged.name in line for line in again["damaged"]] == [True]


def test_a_folder_without_the_files_says_what_it_looked_for(name: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=next(iter(TINY[name]())).replace("+", r"\+")):
        download(name, folder, local=tmp_path)


def test_data_that_is_not_downloaded_names_the_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"run `biasscope download {name} "):
        datasets.load(first(name), tmp_path / "nowhere")
