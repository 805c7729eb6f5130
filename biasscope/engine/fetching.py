"""One file from the hub or from a raw host: bounded retries, no token, no telemetry, nothing shown."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from biasscope.engine.errors import DataError, NetworkError
from biasscope.engine.sources import RemoteFile, Source

HUB = "https://huggingface.co"
RAW = "https://raw.githubusercontent.com"
ATTEMPTS = 3
PAUSE_S = 0.3
TIMEOUT_S = 10.0
# Reaching the host at all is decided sooner than that a transfer has stalled.
REACH_S = 4.0


class _TransientError(Exception):
    """A failure of the network that may pass."""


def fetch(source: Source, file: RemoteFile, folder: Path, *, hub_url: str | None, raw_url: str | None) -> Path:
    """The downloaded file, somewhere inside `folder`.

    NetworkError after three attempts, or at once where the host does not have the file. DataError: a raw file's wrong checksum.
    """
    host = (hub_url or os.environ.get("HF_ENDPOINT") or HUB) if source.host == "hub" else (raw_url or RAW)
    attempt = _from_hub if source.host == "hub" else _from_raw
    return _retried(lambda: attempt(source, file, folder, host.rstrip("/")), f"{host}: {source.repo}/{file.path}", source.name)


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
        f"cannot download {what} ({ATTEMPTS} attempts: {reason}); try again later, or `biasscope download {name} --from FOLDER`"
    ) from cause


def _refused(url: str, status: int) -> NetworkError:
    return NetworkError(f"{url} answers {status}; check the address, or use `--from FOLDER` with a local copy")


def _from_hub(source: Source, file: RemoteFile, folder: Path, host: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import httpx2
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    url = hub.hf_hub_url(source.repo, file.path, repo_type="dataset", revision=source.revision, endpoint=host)
    bars = not hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        # The hub's own client repeats a failing look-up for a minute; this look-up fails at once and is ours to repeat.
        hub.get_hf_file_metadata(url, token=False, timeout=REACH_S, endpoint=host)
        path = hub.hf_hub_download(
            source.repo,
            file.path,
            repo_type="dataset",
            revision=source.revision,
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
        # The hub's client reports a short file as OSError without errno; one with errno (disk full) is not the network's.
        if error.errno is not None:
            raise
        raise _TransientError from error
    finally:
        if bars:
            hub.utils.enable_progress_bars()
    return Path(path)


def _from_raw(source: Source, file: RemoteFile, folder: Path, host: str) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    url = f"{host}/{source.repo}/{source.revision}/{file.path}"
    # An `auth` that does nothing keeps requests from sending what ~/.netrc holds for the host.
    downloader = pooch.HTTPDownloader(timeout=(REACH_S, TIMEOUT_S), auth=lambda request: request)
    try:
        path = pooch.retrieve(url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=folder, downloader=downloader)
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
