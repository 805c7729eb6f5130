"""Fixtures of the download tests: the tiny data on a host, and an environment without the network's switches."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Host, host
from tiny_data import intersentence, intrasentence, numbered, publish_stereoset, publish_winogender, write_parquet, write_winogender

from biasscope.engine.data import download
from biasscope.engine.data.datasets import stereoset, winogender
from biasscope.engine.store import digests

HUB_ORDER = ("anti-stereotype", "stereotype", "unrelated")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # The hub's client reads the switch when it is imported, and the other tests run with it on.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("parquet")
    splits = {"intrasentence": intrasentence(), "intersentence": intersentence()}
    return {s: write_parquet(folder / f"{s}.parquet", numbered(r, HUB_ORDER), names=HUB_ORDER) for s, r in splits.items()}


def hub_path(split: str) -> str:
    return f"/datasets/McGill-NLP/stereoset/resolve/{stereoset.SOURCE.revision}/{split}/validation-00000-of-00001.parquet"


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
        root = f"/rudinger/winogender-schemas/{winogender.SOURCE.revision}/data"
        server.files = {f"{root}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def left(data: Path) -> list[str]:
    """What lies in the data directory."""
    return sorted(str(path.relative_to(data)) for path in data.rglob("*"))
