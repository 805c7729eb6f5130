"""Downloads into the data directory: verified before anything is stored, each with a record of what it is."""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from urllib.parse import quote

from biasscope.engine.data import datasets
from biasscope.engine.data.reading import Gathered, Origin, RemoteFile
from biasscope.engine.errors import BiasScopeError, DataError, NetworkError, UsageError
from biasscope.engine.store import digests
from biasscope.engine.types import Track, silent

RECORD = "record.json"
TEMPORARY = ".download-"
STALE_S = 3600
HUB = "https://huggingface.co"
RAW = "https://raw.githubusercontent.com"
ATTEMPTS = 3
PAUSE_S = 0.3
TIMEOUT_S = 10.0
# Reaching the host at all is decided sooner than that a transfer has stalled.
REACH_S = 4.0


def names() -> list[str]:
    """The datasets that can be downloaded."""
    return [
        module.ORIGIN.name for module in datasets.modules().values() if module.ORIGIN.host in ("hub", "raw")
    ]


def download(
    name: str,
    data_dir: Path,
    *,
    local: Path | None = None,
    fresh: bool = False,
    offline: bool = False,
    hub_url: str | None = None,
    raw_url: str | None = None,
    track: Track = silent,
) -> dict[str, Any]:
    """The record of the dataset's files in `data_dir`, with `reused` (nothing was downloaded) and `damaged`
    (files that were mended).

    `local` takes copies from a folder instead of the network. Whatever fails, files already there stay as
    they are. UsageError: unknown dataset. NetworkError: offline or unreachable. DataError: a wrong checksum
    or other content than published.
    """
    if name not in names():
        raise UsageError(datasets.unknown("dataset", name, names()))
    module = datasets.modules()[name]
    folder = data_dir / name
    record, damaged = verify(module.ORIGIN, folder)
    if record is not None and not damaged and not fresh and local is None:
        return record | {"reused": True, "damaged": []}
    if local is None and (offline or _hub_is_off(module.ORIGIN)):
        raise NetworkError(
            f"{name} must be downloaded, and this is offline; use `biasscope download {name} --from FOLDER`"
        )
    if local is not None and not local.is_dir():
        raise DataError(f"{local} is not a folder; --from takes a folder with copies of {name}")
    try:
        _check_writable(folder)
        with _workplace(data_dir) as work:
            gathered, provenance = _obtain(module, Path(work), local, hub_url, raw_url, track)
            record = _record(module.ORIGIN, gathered, provenance)
            _publish(Path(work), folder, {**gathered.files, RECORD: _json(record)})
    except OSError as error:
        raise _cannot_write(data_dir, error) from error
    return record | {"reused": False, "damaged": damaged}


def verify(origin: Origin, folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The folder's record (None: absent or incomplete) and the files that are not what it says."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sums = dict(record["files"])
    except FileNotFoundError:
        return None, []
    except (OSError, ValueError, KeyError, TypeError):
        return None, [f"{folder / RECORD} cannot be read"]
    if not {file.name for file in origin.files} <= sums.keys():
        return None, []
    actual = {
        name: digests.of_file(folder / name) if (folder / name).is_file() else "missing" for name in sums
    }
    wrong = [
        f"{folder / name}: sha256 {actual[name]}, expected {sums[name]}"
        for name in sums
        if actual[name] != sums[name]
    ]
    if dict(record.get("content", {})) != dict(origin.digests):
        wrong.append(f"{folder / RECORD}: content digests of another version of the data")
    return record, wrong


def _hub_is_off(origin: Origin) -> bool:
    return origin.host == "hub" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _check_writable(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise PermissionError(errno.EACCES, "not a folder that can be written to", str(folder))


def _workplace(data_dir: Path) -> "TemporaryDirectory[str]":
    """A temporary folder inside the data directory, so that its files can be renamed into place; old ones are
    swept.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    for old in data_dir.glob(f"{TEMPORARY}*"):
        # Left by a process that was killed; a younger one may belong to a download that is still running.
        if time.time() - old.stat().st_mtime > STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    return TemporaryDirectory(dir=data_dir, prefix=TEMPORARY)


def _obtain(
    module: ModuleType, work: Path, local: Path | None, hub_url: str | None, raw_url: str | None, track: Track
) -> tuple[Gathered, dict[str, Any]]:
    """The verified files, and where they came from."""
    origin: Origin = module.ORIGIN
    if local is not None:
        return module.gather(local), {"from": str(local)}
    copies = work / "copies"
    for file in track(list(origin.files), f"downloading {origin.name}"):
        target = copies / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fetch(origin, file, work, hub_url=hub_url, raw_url=raw_url), target)
    sums = {file.path: digests.of_file(copies / file.path) for file in origin.files}
    notes = [
        f"{file.path}: sha256 {sums[file.path]}, expected {file.sha256}; accepted, because the content "
        "digest is right"
        for file in origin.files
        if sums[file.path] != file.sha256
    ]
    return module.gather(copies), {"downloaded": sums, "notes": notes}


def _record(origin: Origin, gathered: Gathered, provenance: dict[str, Any]) -> dict[str, Any]:
    return {
        **origin.record(),
        "files": {name: digests.of_bytes(content) for name, content in gathered.files.items()},
        "content": dict(gathered.content),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "notes": [],
        **provenance,
    }


def _json(record: dict[str, Any]) -> bytes:
    return f"{json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def _publish(work: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    """Rename complete files into place, the record last: a break in between is seen as damage by the next
    call.
    """
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        with (work / name).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    for name in files:
        (work / name).replace(folder / name)


def _cannot_write(data_dir: Path, error: OSError) -> BiasScopeError:
    advice = "free some space" if error.errno == errno.ENOSPC else "choose another folder with --data-dir"
    return BiasScopeError(
        f"cannot write to {error.filename or data_dir}: {error.strerror or error}; {advice}"
    )


class _TransientError(Exception):
    """A failure of the network that may pass."""


def fetch(
    origin: Origin, file: RemoteFile, folder: Path, *, hub_url: str | None, raw_url: str | None
) -> Path:
    """The downloaded file, somewhere inside `folder`.

    NetworkError after three attempts, or at once where the host does not have the file. DataError: a raw
    file's wrong checksum.
    """
    host = (hub_url or os.environ.get("HF_ENDPOINT") or HUB) if origin.host == "hub" else (raw_url or RAW)
    attempt = _from_hub if origin.host == "hub" else _from_raw
    return _retried(
        lambda: attempt(origin, file, folder, host.rstrip("/")),
        f"{host}: {origin.repo}/{file.path}",
        origin.name,
    )


def _retried(attempt: Callable[[], Path], what: str, name: str) -> Path:
    cause: BaseException | None = None
    for turn in range(ATTEMPTS):
        time.sleep(PAUSE_S * turn)
        try:
            return attempt()
        except _TransientError as error:
            cause = error.__cause__
    reason = " ".join(str(cause).split())[:160]
    raise NetworkError(
        f"cannot download {what} ({ATTEMPTS} attempts: {reason}); try again later, or `biasscope download "
        f"{name} --from FOLDER`"
    ) from cause


def _refused(url: str, status: int) -> NetworkError:
    return NetworkError(
        f"{url} answers {status}; check the address, or use `--from FOLDER` with a local copy"
    )


def _from_hub(origin: Origin, file: RemoteFile, folder: Path, host: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import httpx2
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    url = hub.hf_hub_url(origin.repo, file.path, repo_type="dataset", revision=origin.revision, endpoint=host)
    bars = not hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        # The hub's own client repeats a failing look-up for a minute; this look-up fails at once and is ours
        # to repeat.
        hub.get_hf_file_metadata(url, token=False, timeout=REACH_S, endpoint=host)
        path = hub.hf_hub_download(
            origin.repo,
            file.path,
            repo_type="dataset",
            revision=origin.revision,
            cache_dir=folder / "hub",
            etag_timeout=TIMEOUT_S,
            token=False,
            endpoint=host,
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status < 500 and status not in (408, 429):
            raise _refused(url, status) from error
        raise _TransientError from error
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TransientError from error
    except OSError as error:
        # The hub's client reports a short file as OSError without errno; one with errno (disk full) is not
        # the network's.
        if error.errno is not None:
            raise
        raise _TransientError from error
    finally:
        if bars:
            hub.utils.enable_progress_bars()
    return Path(path)


def _from_raw(origin: Origin, file: RemoteFile, folder: Path, host: str) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    url = f"{host}/{origin.repo}/{origin.revision}/{quote(file.path)}"
    # An `auth` that does nothing keeps requests from sending what ~/.netrc holds for the host.
    downloader = pooch.HTTPDownloader(timeout=(REACH_S, TIMEOUT_S), auth=lambda request: request)
    try:
        path = pooch.retrieve(
            url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=folder, downloader=downloader
        )
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if status < 500 and status not in (408, 429):
            raise _refused(url, status) from error
        raise _TransientError from error
    except requests.RequestException as error:
        raise _TransientError from error
    except ValueError as error:
        # pooch has deleted the file; its message names both sums.
        raise DataError(f"{url}: {str(error).split(' Deleted')[0]}") from error
    return Path(path)
