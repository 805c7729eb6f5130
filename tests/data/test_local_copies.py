"""StereoSet from local copies: every container gives the same content, a wrong class map none."""

import json
from pathlib import Path

import pytest

from biasscope.engine.data import datasets, reading
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from tests.support.tiny_data import (
    intersentence,
    intrasentence,
    numbered,
    publish_stereoset,
    write_lists,
    write_parquet,
)

HUB_ORDER = ("anti-stereotype", "stereotype", "unrelated")


@pytest.mark.parametrize("names", [HUB_ORDER, tuple(reversed(HUB_ORDER)), None])
@pytest.mark.parametrize("struct_of_lists", [True, False])
def test_class_numbers_get_the_words_of_the_file(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...] | None,
    struct_of_lists: bool,
) -> None:
    publish_stereoset(monkeypatch)
    records = numbered(intrasentence(), names or HUB_ORDER)
    write_parquet(tmp_path / "intrasentence.parquet", records, names=names, struct_of_lists=struct_of_lists)
    download("stereoset", folder, local=tmp_path)
    assert datasets.load("stereoset", folder).examples[0].unrelated == " fox"


def test_a_wrong_class_map_is_refused_whatever_the_digest_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_stereoset(monkeypatch)
    monkeypatch.setattr(reading, "confirm", lambda *args, **kwargs: ())
    wrong = ("unrelated", "anti-stereotype", "stereotype")
    write_parquet(tmp_path / "intrasentence.parquet", numbered(intrasentence(), HUB_ORDER), names=wrong)
    with pytest.raises(DataError, match="labels are exchanged"):
        download("stereoset", folder, local=tmp_path)
    assert not list(folder.rglob("*"))


def test_the_official_container_with_votes_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_stereoset(monkeypatch)
    votes = [
        r | {"sentences": [s | {"labels": [{"label": "related", "human_id": "x"}]} for s in r["sentences"]]}
        for r in intrasentence()
    ]
    container = {"version": "1.1", "data": {"intrasentence": votes, "intersentence": intersentence()}}
    (tmp_path / "dev.json").write_text(json.dumps(container))
    assert set(download("stereoset", folder, local=tmp_path)["files"]) == {
        "intrasentence.json",
        "intersentence.json",
    }
    assert "human_id" not in (folder / "stereoset" / "intrasentence.json").read_text()


@pytest.mark.parametrize("prefix", ["stereoset_", ""])
@pytest.mark.parametrize("place", ["", "stereoset"])
def test_lists_are_taken_from_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, place: str
) -> None:
    publish_stereoset(monkeypatch)
    write_lists(tmp_path / "copy" / place, prefix)
    assert len(download("stereoset", folder, local=tmp_path / "copy")["files"]) == 2


def test_fill_in_sentences_alone_are_enough(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_stereoset(monkeypatch)
    write_lists(tmp_path)
    (tmp_path / "stereoset_intersentence.json").unlink()
    assert set(download("stereoset", folder, local=tmp_path)["content"]) == {"intrasentence"}


def test_a_folder_without_the_data_says_what_it_looked_for(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stereoset_intrasentence\.json"):
        download("stereoset", folder, local=tmp_path)
    with pytest.raises(DataError, match=r"templates\.tsv"):
        download("winogender", folder, local=tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        download("winogender", folder, local=tmp_path / "nowhere")
