"""Two tiny saved models that are the same on every machine: weights and merges are written down, nothing is
trained or drawn by torch.
"""

from pathlib import Path
from typing import Any

import numpy as np

LOWER = """\
the a an he his him she her and to had at is about for home know because was that in asked not so bus would
job rent by but say our old call i invited again late this morning missed long shift promised finish tomorrow
meeting began looked notes stopped corridor directions room most evenings six trusted since always given
honest answers have met new yet people good things leaving gave phone number local paper interviewed from
street talked days office closed will what do spring sold car moved coast party liked hosts neighbor newcomer
my we on said with father mother brother sister man woman who are they very of there accountant administrator
advisor architect auditor baker bartender broker carpenter cashier chef chemist clerk counselor doctor
engineer examiner firefighter inspector instructor janitor lawyer librarian machinist manager mechanic nurse
officer painter paramedic physician planner plumber programmer secretary specialist supervisor surgeon teacher
technician therapist worker"""
"""Words that are one token after a space; of a word that is not here, the longest beginning that one of them
has is one.
"""
UPPER = "The A I He She His Her We Before Everyone After If Last My Our"
END = "<|endoftext|>"
LENGTH = 192
NAMES = {"gpt2": "tiny-gpt2", "llama": "tiny-llama"}
"""Family → folder."""


def tokenizer() -> Any:
    """A byte-level BPE whose merges lengthen the beginning of a word, letter by letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"Ġ{word}" for word in LOWER.split()] + UPPER.split()
    merges = list(dict.fromkeys((word[:i], word[i]) for word in words for i in range(1, len(word))))
    texts = [END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE({text: number for number, text in enumerate(dict.fromkeys(texts))}, merges))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END)


def config(family: str, words: int) -> Any:
    """Two layers of three heads, or of four that share two keys and values."""
    import transformers as hf

    ends = {"vocab_size": words, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        return hf.GPT2Config(**ends, n_embd=24, n_layer=2, n_head=3, n_positions=LENGTH)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return hf.LlamaConfig(
        **ends,
        **heads,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
    )


def save(folder: Path) -> None:
    """Write both models into `folder`, as `save_pretrained` does."""
    import torch
    import transformers as hf

    words = tokenizer()
    for family, name in NAMES.items():
        model, rng = (
            hf.AutoModelForCausalLM.from_config(config(family, len(words))),
            np.random.default_rng(len(family)),
        )
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                # whole numbers over a power of two: no rounding, so that the bytes are the same everywhere
                if weight.dim() > 1:
                    weight.copy_(
                        torch.from_numpy(rng.integers(-2048, 2049, tuple(weight.shape)) / 8192).float()
                    )
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
