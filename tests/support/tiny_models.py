"""Tiny models of every family with seeded random weights, and a tokenizer trained on a few sentences."""

import tempfile
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from biasscope.engine.model import planted, weights
from biasscope.engine.model.exactness import check_packing
from biasscope.engine.model.loading import LM, boot

WORDS = 512
LLAMA_LIKE = {
    "vocab_size": WORDS,
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
LLAMA_LIKE["max_position_embeddings"] = 96
NEO = {
    "attention_types": [[["global", "local"], 2]],
    "max_position_embeddings": 96,
    "window_size": 32,
    "intermediate_size": 96,
}
GEMMA = {
    "num_key_value_heads": 1,
    "head_dim": 12,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
NARROW = {
    "vocab_size": WORDS,
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 48,
}
NARROW |= {"max_position_embeddings": 96, "head_dim": 12, "num_key_value_heads": 1}
NARROW_NEO = {
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 96,
    "window_size": 64,
    "intermediate_size": 48,
}
OPT = {"ffn_dim": 96, "word_embed_proj_dim": 48, "max_position_embeddings": 96}
FAMILIES = {
    "gpt2": lambda: hf.GPT2Config(vocab_size=WORDS, n_embd=48, n_layer=4, n_head=4, n_positions=96),
    "gpt-neo": lambda: hf.GPTNeoConfig(vocab_size=WORDS, hidden_size=48, num_layers=4, num_heads=4, **NEO),
    "llama": lambda: hf.LlamaConfig(**LLAMA_LIKE, num_key_value_heads=2),
    "gemma3": lambda: hf.Gemma3TextConfig(**LLAMA_LIKE, **GEMMA),
    "neox": lambda: hf.GPTNeoXConfig(**LLAMA_LIKE),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA_LIKE, num_key_value_heads=2),
    "opt": lambda: hf.OPTConfig(
        vocab_size=WORDS, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, **OPT
    ),
    "gpt2-narrow": lambda: hf.GPT2Config(vocab_size=WORDS, n_embd=24, n_layer=2, n_head=3, n_positions=96),
    "gpt-neo-narrow": lambda: hf.GPTNeoConfig(
        vocab_size=WORDS, hidden_size=24, num_layers=2, num_heads=3, **NARROW_NEO
    ),
    # heads × d_head ≠ d_model, with grouped queries
    "llama-narrow": lambda: hf.LlamaConfig(**NARROW),
    "gemma3-narrow": lambda: hf.Gemma3TextConfig(
        **NARROW, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3-narrow": lambda: hf.Qwen3Config(**NARROW),
    "mpt": lambda: hf.MptConfig(
        vocab_size=WORDS, d_model=48, n_layers=4, n_heads=4, max_seq_len=96, expansion_ratio=2
    ),
    "bloom": lambda: hf.BloomConfig(vocab_size=WORDS, hidden_size=48, n_layer=4, n_head=4),
    "mamba": lambda: hf.MambaConfig(vocab_size=WORDS, hidden_size=48, num_hidden_layers=4, state_size=8),
}
EXACT = ("gpt2", "gpt-neo", "llama", "gemma3", "gemma3-narrow", "neox", "qwen2", "qwen3-narrow", "opt")
"""The families that attend by an ancestor mask."""
NARROWS = ("gpt2-narrow", "gpt-neo-narrow", "llama-narrow", "gemma3-narrow", "qwen3-narrow")
"""Two layers of three heads each: plain, with a local window, and three whose heads × d_head is not
d_model.
"""

TEXTS = [
    f"{who} {verb} that {p} {end}"
    for who in (
        "The nurse",
        "The engineer",
        "My father",
        "A strange old plumber",
        "The teacher of the chess player",
    )
    for verb in ("said", "had told someone")
    for p in ("he", "she")
    for end in ("was late.", "could help the carpenter.", "is always very kind, strong or weak")
]


def tiny_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A byte-level BPE of at most 400 tokens: ' he' is not 'he', rare words are several tokens, nothing is
    prepended.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet),
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")


def graded(seed: int) -> LM:
    """planted:graded with this noise."""
    with tempfile.TemporaryDirectory() as folder:
        for part in planted.build("graded", planted.words(), seed=seed):
            part.save_pretrained(folder)
        return check_packing(boot(weights.Weights("graded", Path(folder), None, "0" * 64), device="cpu"))


def save_tiny(family: str, folder: Path) -> Path:
    """A folder with a seeded random model of that family and the tiny tokenizer, as `save_pretrained` writes
    them.
    """
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for p in model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
