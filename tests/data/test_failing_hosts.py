"""Hosts that are slow, broken, cut off or absent: bounded retries, one line, no token, nothing torn."""

import socket
from pathlib import Path

import pytest

from biasscope.engine.data import datasets
from biasscope.engine.data import download as downloading
from biasscope.engine.data.datasets import winogender
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError, NetworkError
from biasscope.engine.store import digests
from tests.support.hosted import left
from tests.support.servers import Host

pytestmark = pytest.mark.usefixtures("no_environment")
PAUSE_S = downloading.PAUSE_S


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are slept, at the pace of the command itself, without anybody sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(downloading, "PAUSE_S", PAUSE_S)
    monkeypatch.setattr(downloading.time, "sleep", slept.append)
    return slept


def test_a_slow_host_is_waited_for(hub: Host, folder: Path) -> None:
    hub.always = "slow"
    assert not download("stereoset", folder, hub_url=hub.url)["reused"]


@pytest.mark.parametrize("plan", [["error"], ["error", "error"], ["cut"], ["cut", "error"]])
def test_passing_failures_of_the_raw_host_are_tried_again(raw: Host, folder: Path, plan: list) -> None:
    raw.plan = list(plan)
    download("winogender", folder, raw_url=raw.url)
    assert raw.gets() == 3 + len(plan)
    assert len(datasets.load("winogender", folder).examples) == 2


@pytest.mark.parametrize("plan", [["error"], ["cut"]])
def test_passing_failures_of_the_hub_are_tried_again(hub: Host, folder: Path, plan: list) -> None:
    hub.plan = list(plan)
    download("stereoset", folder, hub_url=hub.url)
    assert len(datasets.load("stereoset", folder).examples) == 6


def test_a_failing_look_up_on_the_hub_is_tried_again(hub: Host, folder: Path) -> None:
    hub.broken_heads = 2
    assert not download("stereoset", folder, hub_url=hub.url)["reused"]


def test_a_broken_raw_host_ends_after_three_attempts(raw: Host, folder: Path) -> None:
    raw.always = "error"
    with pytest.raises(NetworkError, match="3 attempts"):
        download("winogender", folder, raw_url=raw.url)
    assert raw.gets() == 3
    assert left(folder) == []


def test_a_broken_hub_ends_after_three_attempts_and_leaves_nothing(
    hub: Host, folder: Path, pauses: list[float]
) -> None:
    hub.always = "error"
    with pytest.raises(NetworkError, match="3 attempts"):
        download("stereoset", folder, hub_url=hub.url)
    assert len(hub.seen) == 3 and sum(pauses) < 1
    assert left(folder) == []


def test_a_file_the_hub_does_not_have_is_not_tried_again(hub: Host, folder: Path) -> None:
    hub.files = {}
    with pytest.raises(NetworkError, match="404"):
        download("stereoset", folder, hub_url=hub.url)
    assert len(hub.seen) == 1


def test_a_raw_file_with_a_wrong_checksum_is_refused_naming_both(raw: Host, folder: Path) -> None:
    path = next(p for p in raw.files if p.endswith(winogender.SENTENCES))
    expected, raw.files[path] = digests.of_bytes(raw.files[path]), raw.files[path].replace(b"oven", b"cake")
    with pytest.raises(DataError) as error:
        download("winogender", folder, raw_url=raw.url)
    assert expected in str(error.value)
    assert digests.of_bytes(raw.files[path]) in str(error.value)
    assert left(folder) == []


def test_offline_asks_nobody(hub: Host, folder: Path) -> None:
    with pytest.raises(NetworkError, match="--from"):
        download("stereoset", folder, hub_url=hub.url, offline=True)
    assert hub.seen == []
    assert NetworkError.exit_code == 5


def test_the_hubs_offline_switch_is_honoured(
    hub: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError):
        download("stereoset", folder, hub_url=hub.url)
    assert hub.seen == []


def test_the_hubs_endpoint_variable_is_honoured(
    hub: Host, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    download("stereoset", folder)
    assert hub.gets() == 2


@pytest.mark.parametrize("name", ["stereoset", "winogender"])
def test_an_unreachable_host_is_one_line_after_short_pauses(
    folder: Path, name: str, pauses: list[float]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(NetworkError) as error:
        download(name, folder, hub_url=url, raw_url=url)
    assert sum(pauses) < 1 and "3 attempts" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_token_is_ever_sent(hub: Host, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    download("stereoset", folder, hub_url=hub.url)
    assert len(hub.seen) > 2
    assert not [
        headers
        for _, _, headers in hub.seen
        if "canary" in str(headers) or "authorization" in str(headers).lower()
    ]
