"""A model from the hub: the real client against a host on the loopback, safetensors only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import host

COMMIT = "0d66b726809ae46e0cb4aba758f5ee21d9783032"  # what the host says its commit is


def serve(server, repo: str, folder: Path) -> None:
    """Puts a model folder on the host as a hub repository."""
    files = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    about = {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "siblings": [{"rfilename": name} for name in files],
        "tags": [],
        "private": False,
    }
    for revision in ("main", COMMIT):
        server.files[f"/api/models/{repo}/revision/{revision}"] = json.dumps(about).encode()
        tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()]
        server.files[f"/api/models/{repo}/tree/{revision}?recursive=true&expand=false"] = json.dumps(
            tree
        ).encode()
        server.files |= {f"/{repo}/resolve/{revision}/{name}": body for name, body in files.items()}


def run(model: str, tmp_path: Path, url: str, *more: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    where = ["--output-dir", str(tmp_path / "results"), "--cache-dir", str(tmp_path / "cache")]
    command = [
        "baseline",
        "--model",
        model,
        "--dataset",
        "definitional",
        "--limit",
        "6",
        "--json",
        *where,
        *more,
    ]
    return subprocess.run(
        [sys.executable, "-m", "biasscope", *command],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | settings,
        timeout=300,
    )


def test_a_hub_model_is_fetched_once_at_a_known_revision_and_then_read_offline(tiny_gpt2, tmp_path):
    with host() as server:
        serve(server, "tiny/gpt2", tiny_gpt2)
        first = run("tiny/gpt2", tmp_path, server.url)
        assert first.returncode == 0, first.stderr
        assert json.loads(first.stdout)["run"]["model"]["revision"] == COMMIT
        assert not [
            path for _, path, headers in server.seen if "authorization" in {h.lower() for h in headers}
        ]
        asked = len(server.seen)
        offline = run("tiny/gpt2", tmp_path, server.url, "--offline")
        assert (offline.returncode, len(server.seen)) == (0, asked), offline.stderr
    assert json.loads(offline.stdout)["summary"] == json.loads(first.stdout)["summary"]


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [("tiny/none", 4, "no model 'tiny/none' on the hub"), ("tiny/pickled", 4, "only safetensors")],
)
def test_a_hub_model_that_is_not_there_or_pickled_ends_in_one_line(model, code, message, tiny_gpt2, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_gpt2 / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with host() as server:
        serve(server, "tiny/pickled", folder)
        done = run(model, tmp_path, server.url)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_hub_is_exit_5(tmp_path):
    done = run("tiny/gpt2", tmp_path, "http://127.0.0.1:9")
    assert done.returncode == 5
    assert "the hub cannot be reached" in done.stderr
