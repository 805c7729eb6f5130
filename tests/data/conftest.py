"""The tiny data as published, in a folder and on hosts of the loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from biasscope.engine.data import download
from biasscope.engine.data.datasets import winogender
from biasscope.engine.store import digests
from tests.support.hosted import HUB_ORDER, hub_path
from tests.support.servers import Host, host
from tests.support.tiny_data import (
    intersentence,
    intrasentence,
    numbered,
    publish_stereoset,
    publish_winogender,
    published,
    write_parquet,
    write_winogender,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the tiny StereoSet and WinoGender, as published."""
    return published(monkeypatch, tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's switches off, and short pauses."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # The hub's client reads the switch when it is imported, and the other tests run with it on.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("parquet")
    splits = {"intrasentence": intrasentence(), "intersentence": intersentence()}
    return {
        s: write_parquet(folder / f"{s}.parquet", numbered(r, HUB_ORDER), names=HUB_ORDER)
        for s, r in splits.items()
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, parquet: dict[str, bytes]) -> Iterator[Host]:
    publish_stereoset(monkeypatch, **{split: digests.of_bytes(body) for split, body in parquet.items()})
    with host() as server:
        server.files = {hub_path(split): body for split, body in parquet.items()}
        yield server


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Host]:
    folder = write_winogender(tmp_path / "origin")
    publish_winogender(monkeypatch, folder)
    with host() as server:
        root = f"/rudinger/winogender-schemas/{winogender.ORIGIN.revision}/data"
        server.files = {f"{root}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        yield server
