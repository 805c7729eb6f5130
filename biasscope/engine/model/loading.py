"""Language models, booted, and how many nodes one pass of theirs may hold. The only file that boots one."""

import copy
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.model.devices import WIDE, _device, free_memory, read_in_float32
from biasscope.engine.model.shape import Shape
from biasscope.engine.model.weights import DEFAULT, Weights, first_line, locate, quiet
from biasscope.engine.settings import IN_MEMORY
from biasscope.engine.store import digests
from biasscope.engine.types import UNEDITED, Edit

if TYPE_CHECKING:
    import torch

PROCESS = 900 * 2**20
"""Bytes of a process with its libraries and a forest, before weights and passes."""


@dataclass(frozen=True)
class LM:
    """A booted causal language model and the few facts of it that the engine needs."""

    name: str
    bridge: Any
    tokenizer: Any
    """The model's own tokenizer, untouched by the bridge (booting would change its start of text)."""
    n_layers: int
    n_heads: int
    n_kv: int
    """Heads of keys and values; fewer than `n_heads` where several queries share one."""
    d_model: int
    d_mlp: int
    vocab: int
    window: int
    """Longest row of a packed pass: the shortest attention window or the context, whichever is less."""
    context: int
    weight_bytes: int
    start: int | None
    """The id that stands before the first token of a whole sentence and of an empty prefix."""
    prepends: bool
    """Whether the tokenizer itself puts `start` before every text."""
    keeps_logits: bool
    """Whether the model can unembed chosen nodes only."""
    device: str
    dtype: str
    revision: str | None
    digest: str
    tokenizer_digest: str
    note: str | None = None
    packed: bool = True
    """False where the model cannot attend by an ancestor mask: one sequence a row then."""
    edit: Edit = UNEDITED
    """What stands in it in every pass, before anything else is replaced."""

    @property
    def shape(self) -> Shape:
        """How many layers and heads it has."""
        return Shape(self.name, self.n_layers, self.n_heads)

    @property
    def family(self) -> str:
        """The model's kind by transformers' name, such as `llama`."""
        return str(self.bridge.original_model.config.get_text_config().model_type)

    def parts(self, component: str) -> int | None:
        """How many parts a component of one layer has; None where it is one piece."""
        counts = {"z": self.n_heads, "q": self.n_heads, "pattern": self.n_heads}
        return (counts | {"k": self.n_kv, "v": self.n_kv, "neuron": self.d_mlp}).get(component)

    @cached_property
    def ids(self) -> Callable[[str], tuple[int, ...]]:
        """A text's ids by the tokenizer's own call, remembered: a prompt comes with each of its fillers."""
        return lru_cache(65_536)(lambda text: tuple(self.tokenizer(text).input_ids))


def load(
    name: str = DEFAULT,
    *,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    cache_dir: Path,
    offline: bool = False,
) -> LM:
    """The model of that name, ready to run, with default numerics (nothing folded or centred)."""
    return boot(
        locate(name, revision=revision, cache_dir=cache_dir, offline=offline), device=device, dtype=dtype
    )


def boot(weights: Weights, *, device: str = "auto", dtype: str = "float32") -> LM:
    """The model in `weights.folder`, booted on `device` ("auto": CUDA where there is one, else CPU)."""
    import torch
    import transformer_lens.model_bridge  # noqa: F401  first: it quietens transformers, which else warns of configurations
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = _device(device)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.folder, **local)
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                weights.folder, dtype=getattr(torch, dtype), use_safetensors=True, **local
            )
    except Exception as error:
        raise DataError(f"cannot load model {weights.name}: {first_line(error)}") from error
    if len(tokenizer) < 2:
        raise DataError(
            f"the tokenizer in {weights.folder} is empty; save it again with `tokenizer.save_pretrained`"
        )
    model.eval().requires_grad_(False).to(device)
    return _bridged(weights, model, tokenizer, device, dtype)


def adopt(model: Any, tokenizer: Any = None) -> LM:
    """A model in memory: of transformers, with its tokenizer, or a `TransformerBridge`; it stays where it is.

    A model of transformers is copied, because a bridge changes the modules that it wraps. Its digest is that
    of its parameters, its name the one it was loaded by. UsageError where there is no fast tokenizer,
    DataError where TransformerLens knows no such model.
    """
    from transformer_lens.model_bridge import TransformerBridge

    bridge = model if isinstance(model, TransformerBridge) else None
    inner = model if bridge is None else bridge.original_model
    tokenizer = tokenizer if bridge is None else tokenizer or bridge.tokenizer
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"a model in memory needs its fast tokenizer, found {type(tokenizer).__name__}: "
            "load_model(model, tokenizer)"
        )
    name = getattr(inner.config, "_name_or_path", "") or type(inner).__name__
    parameters = next(inner.parameters())
    device, dtype = str(parameters.device), str(parameters.dtype).removeprefix("torch.")
    weights = InMemory(name, _digest(inner), digests.of_bytes(tokenizer.backend_tokenizer.to_str().encode()))
    if bridge is not None:
        return _described(weights, bridge, tokenizer, device, dtype)
    return _bridged(
        weights, copy.deepcopy(inner).eval().requires_grad_(False), copy.deepcopy(tokenizer), device, dtype
    )


@dataclass(frozen=True)
class InMemory:
    """What `Weights` says of a model in files, of one in memory."""

    name: str
    digest: str
    tokenizer_digest: str
    revision: None = None
    note: str = IN_MEMORY


def _digest(model: "torch.nn.Module") -> str:
    """sha256 over the names, types, shapes and bytes of the parameters and buffers."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _bridged(weights: Weights | InMemory, model: Any, tokenizer: Any, device: str, dtype: str) -> LM:
    """The model with TransformerLens's hook points."""
    from transformer_lens.model_bridge import TransformerBridge

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        where = str(weights.folder) if isinstance(weights, Weights) else weights.name
        bridge = TransformerBridge.boot_transformers(
            where, hf_model=model, tokenizer=copy.deepcopy(tokenizer), device=device
        )
    except Exception as error:
        raise DataError(
            f"TransformerLens cannot boot {weights.name} ({model.config.model_type}): {first_line(error)}"
        ) from error
    bridge.eval().requires_grad_(False)  # it splits fused weights into new ones of its own
    if dtype != "float32":
        read_in_float32(bridge)
    if device == "cpu":
        from biasscope.engine.model import kernels

        kernels.install(bridge)
    return _described(weights, bridge, tokenizer, device, dtype)


def _described(weights: Weights | InMemory, bridge: Any, tokenizer: Any, device: str, dtype: str) -> LM:
    model = bridge.original_model
    config: Any = model.config.get_text_config()
    if not hasattr(bridge, "blocks") or not hasattr(bridge.blocks[0], "attn"):
        raise DataError(
            f"model {weights.name} ({config.model_type}) has no attention heads to measure; use a transformer"
        )
    context = int(
        getattr(config, "max_position_embeddings", None)
        or getattr(config, "n_positions", None)
        or bridge.cfg.n_ctx
    )
    start, prepends = start_of_text(tokenizer)
    return LM(
        name=weights.name,
        bridge=bridge,
        tokenizer=tokenizer,
        n_layers=bridge.cfg.n_layers,
        n_heads=bridge.cfg.n_heads,
        n_kv=getattr(config, "num_key_value_heads", None) or bridge.cfg.n_heads,
        d_model=bridge.cfg.d_model,
        d_mlp=getattr(config, "ffn_dim", None) or bridge.cfg.d_mlp or 4 * bridge.cfg.d_model,
        vocab=model.get_output_embeddings().weight.shape[0],
        window=min([context, *_windows(config)]),
        context=context,
        weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        start=start,
        prepends=prepends,
        keeps_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
        device=device,
        dtype=dtype,
        revision=weights.revision,
        digest=weights.digest,
        tokenizer_digest=weights.tokenizer_digest,
        note=weights.note,
    )


def _windows(config: Any) -> list[int]:
    """Attention windows of the model's local layers, which mask by index: no packed row may be longer."""
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or [])
    sliding = getattr(config, "sliding_window", None) if not kinds or "sliding_attention" in kinds else None
    local = getattr(config, "window_size", None) if "local" in kinds else None
    return [int(w) for w in (sliding, local) if w]


def start_of_text(tokenizer: Any) -> tuple[int | None, bool]:
    """The id that stands for "nothing before", and whether the tokenizer itself prepends it.

    The token the tokenizer prepends, else <|endoftext|> if it is in the vocabulary, else BOS, else EOS, else
    None.
    """
    with_marks, plain = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    if len(with_marks) > len(plain) and with_marks[-len(plain) :] == plain:
        return with_marks[0], True
    end = tokenizer.get_vocab().get("<|endoftext|>")
    return next(
        (i for i in (end, tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None
    ), False


def batch_size(lm: LM, requested: int | None = None, max_memory: int | None = None) -> int:
    """Nodes × copies of one pass: as requested, else by the model's device, shape and memory alone.

    On a CPU a pass should stay near its caches (2,048 nodes were as good as any number from 1,000 to 4,100).
    On an accelerator it holds a wide row for every head and MLP of a layer (not measured), of what its memory
    has left at most 80 %, or 2 GiB where it does not say. UsageError where the weights and one row alone need
    more than `max_memory` bytes.
    """
    from biasscope.engine.model.packing import row_nodes

    row = row_nodes("all", lm.device)
    widest = max(2 * lm.d_mlp + 8 * lm.d_model, 4 * lm.n_heads * row, lm.vocab // 4)
    if requested is not None:
        return requested
    # a node's share of a pass: what its layer holds, and its logits twice (log-distribution, divergence) were
    # it read, in float32
    per_node = (4 if lm.dtype == "float32" else 2) * 3 * widest + 4 * 3 * lm.vocab
    if lm.device == "cpu":
        size = 2048
    else:
        room = 0.8 * (free_memory(lm.device) or 2**31 / 0.8)
        size = max(row, min(WIDE * (lm.n_heads + 1), int(room // per_node)))
    if max_memory is None:
        return size
    free = max_memory - lm.weight_bytes - PROCESS
    if free < row * per_node:
        least = (lm.weight_bytes + PROCESS + row * per_node) / 2**20
        raise UsageError(f"--max-memory is too little for {lm.name}: it needs at least {least:.0f}MiB")
    return min(size, free // per_node)
