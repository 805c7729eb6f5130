"""A model's tokenizer without its weights: enough to say which examples and twins it can measure."""

import sys
from pathlib import Path

from biasscope.engine.errors import DataError
from biasscope.engine.model import weights
from biasscope.engine.model.loading import LM, start_of_text


def read(name: str, *, revision: str | None = None, cache_dir: Path, offline: bool = False) -> LM:
    """The model of that name as it tokenises; it has no weights, so nothing can be run with it.

    DataError where there is no fast tokenizer with it.
    """
    from transformers import AutoConfig, AutoTokenizer

    file = weights.tokenizer(name, revision=revision, cache_dir=cache_dir, offline=offline)
    folder, source = (file, {}) if file.is_dir() else (file.parent, {"gguf_file": file.name})
    local = {"local_files_only": True, "trust_remote_code": False, **source}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        config = AutoConfig.from_pretrained(folder, **local).get_text_config()
    except Exception as error:
        raise DataError(f"cannot read the tokenizer of {name}: {weights.first_line(error)}") from error
    if len(tokenizer) < 2 or not tokenizer.is_fast:
        raise DataError(f"{file} holds no fast tokenizer; save it again with `tokenizer.save_pretrained`")
    sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    context = next((size for size in sizes if size), sys.maxsize)
    start, prepends = start_of_text(tokenizer)
    return LM(
        name=name,
        bridge=None,
        tokenizer=tokenizer,
        n_layers=0,
        n_heads=0,
        n_kv=0,
        d_model=0,
        d_mlp=0,
        vocab=config.vocab_size,
        window=context,
        context=context,
        weight_bytes=0,
        start=start,
        prepends=prepends,
        keeps_logits=False,
        device="cpu",
        dtype="float32",
        revision=revision,
        digest="",
        tokenizer_digest="",
    )
