"""An edit as files that other software loads: whole weights, a PEFT adapter, a control vector.

What a file cannot hold exactly is refused, with the form that can. No file names a folder of this machine.
"""

import copy
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.model.edits.affine import Affine
from biasscope.engine.model.loading import LM
from biasscope.engine.model.weights import quiet
from biasscope.engine.store import files
from biasscope.engine.types import Edit, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BIASES = {"attn": "attention_bias", "mlp": "mlp_bias"}
"""Part of a block → the setting that gives its output a bias, in the families that have it."""


@dataclass(frozen=True)
class Place:
    """An edit with the model that it is of, and where its plain weights lie."""

    lm: LM
    edit: Edit
    source: Path

    def plain(self, folder: Path | None = None) -> "PreTrainedModel":
        """The model of a folder (by default the unedited one) as transformers loads it."""
        from transformers import AutoModelForCausalLM

        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder or self.source, dtype=getattr(torch, self.lm.dtype), use_safetensors=True, **local
            )
        return model.eval().requires_grad_(False)

    def module(self, layer: int, part: str) -> str:
        """The full name of the module that writes a block's attention or MLP output."""
        block = self.lm.bridge.blocks[layer]
        inner = getattr(block, part)
        out = inner.o if part == "attn" else inner.out
        return ".".join(name for name in (block.name, inner.name, out.name) if name)

    @property
    def alternative(self) -> str:
        """What to do where a form cannot hold the edit."""
        by_kind = {"mean": "use --kind zero, or --as recipe", "steer": "use --as vector, gguf or recipe"}
        return by_kind.get(self.edit.kind, "use --as recipe")


def heads(place: Place) -> dict[int, list[tuple[int, Affine]]]:
    """Layer → the heads that are edited there, with their maps."""
    by_layer: dict[int, list[tuple[int, Affine]]] = {}
    for site, affine in sorted(place.edit.at.items()):
        if site.head is not None:
            by_layer.setdefault(site.layer, []).append((site.head, affine))
    return by_layer


def stream(place: Place) -> list[tuple[Site, Affine]]:
    """The sites of the edit in the residual stream."""
    return [(site, affine) for site, affine in sorted(place.edit.at.items()) if site.head is None]


def weights(place: Place, to: Path) -> None:
    """Write the whole model with the edit in its weights, as `save_pretrained` does.

    DataError where a map of the stream, or a bias that the family does not have, cannot be held.
    """
    for site, affine in stream(place):
        if affine.vectors.keys() != {"bias"} or affine.scale != 1 or not affine.first:
            raise DataError(
                f"{place.edit.name} maps the residual stream, which is no weight (layers below must see the "
                f"unedited one); {place.alternative}"
            )
        if site.layer == 0:
            raise DataError(
                f"{place.edit.name} stands before layer 0, and no MLP before it; {place.alternative}"
            )
    model = place.plain()
    biased = {
        place.module(layer, "attn")
        for layer, maps in heads(place).items()
        if any(a.bias is not None for _, a in maps)
    }
    model = _with_biases(place, model, "attn", biased)
    model = _with_biases(place, model, "mlp", {place.module(s.layer - 1, "mlp") for s, _ in stream(place)})
    for layer, maps in heads(place).items():
        module = model.get_submodule(place.module(layer, "attn"))
        for head, affine in maps:
            _fold(place.lm, module, head, affine)
    for site, affine in stream(place):
        model.get_submodule(place.module(site.layer - 1, "mlp")).bias += affine.bias
    model.config._name_or_path = ""
    with quiet():
        model.save_pretrained(to)
    place.lm.tokenizer.save_pretrained(to)


def _columns(lm: LM, module: Any, head: int) -> Tensor:
    """The columns of an output projection that a head's z is multiplied with, `d_model d_head`: a view."""
    whole: Tensor = module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
    width = whole.shape[1] // lm.n_heads
    return whole[:, head * width : (head + 1) * width]


def _fold(lm: LM, module: Any, head: int, affine: Affine) -> None:
    """Take the map of a head's z into the projection that follows: W (scale z − left rightᵀz + bias)."""
    columns = _columns(lm, module, head)
    before = columns.double()
    after = affine.scale * before
    if affine.left is not None and affine.right is not None:
        after = after - torch.outer(before @ affine.left.double(), affine.right.double())
    if affine.bias is not None:
        module.bias += (before @ affine.bias.double()).to(module.bias)
    columns.copy_(after.to(columns))


def _with_biases(place: Place, model: Any, part: str, names: set[str]) -> Any:
    """The model in which these modules have a bias, zero where they had none. DataError: the family has none.

    Found by making the model from its configuration, not from a list of families.
    """
    if all(model.get_submodule(name).bias is not None for name in names):
        return model
    config = copy.deepcopy(model.config)
    setattr(config, BIASES[part], True)
    with torch.device("meta"):
        probe = type(model)(config)
    if any(probe.get_submodule(name).bias is None for name in names):
        raise DataError(
            f"a model of type {config.model_type} has no bias at its {part} output, which {place.edit.name} "
            f"needs; {place.alternative}"
        )
    wide = type(model)(config).to(next(model.parameters())).eval().requires_grad_(False)
    missing, unexpected = wide.load_state_dict(model.state_dict(), strict=False)
    if unexpected or any(not name.endswith(".bias") for name in missing if name not in _tied(wide)):
        raise DataError(
            f"{config.model_type} changes more than biases with {BIASES[part]}; {place.alternative}"
        )
    for name, parameter in wide.named_parameters():
        if name in missing and name.endswith(".bias"):
            parameter.zero_()
    return wide


def _tied(model: Any) -> set[str]:
    """Names of weights that are another's."""
    return set(getattr(model, "_tied_weights_keys", None) or [])


def ia3(place: Place, to: Path) -> None:
    """Write the edit as a PEFT adapter that scales what enters each output projection. DataError: no scale.

    UsageError where PEFT is not installed.
    """
    check_peft()
    maps = heads(place)
    plain = all(not affine.vectors for own in maps.values() for _, affine in own)
    if stream(place) or not plain:
        raise DataError(
            f"an IA3 adapter can only scale heads, and {place.edit.name} does more; {place.alternative}"
        )
    from peft import IA3Config, get_peft_model

    model = place.plain()
    names = {layer: place.module(layer, "attn") for layer in maps}
    fused = not isinstance(model.get_submodule(next(iter(names.values()))), torch.nn.Linear)
    full = list(names.values())
    both: dict[str, Any] = {"target_modules": full, "feedforward_modules": full}
    config = IA3Config(**both, fan_in_fan_out=fused, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for layer, own in maps.items():
        scales = adapted.get_submodule(f"base_model.model.{names[layer]}").ia3_l["default"]  # type: ignore[index]
        width = scales.shape[-1] // place.lm.n_heads
        for head, affine in own:
            scales.data[..., head * width : (head + 1) * width] = affine.scale
    with quiet():
        adapted.save_pretrained(str(to))
    _unnamed(place, to)


def _unnamed(place: Place, folder: Path) -> None:
    """Put the model's name in the place of its folder, which PEFT writes into configuration and card."""
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = files.slug(place.lm.name)
    files.write_json(config, content)
    readme = folder / "README.md"
    readme.unlink(missing_ok=True)  # the card beside it says what the adapter is


def check_peft() -> None:
    """Raise UsageError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UsageError("--as ia3 needs PEFT; install it with `pip install biasscope[peft]`")


def _steering(place: Place, form: str, first: int) -> tuple[int, Tensor]:
    """The block after whose output the edit adds its vector, and the vector. DataError where it does more."""
    sites = stream(place)
    if heads(place) or len(sites) != 1 or sites[0][1].vectors.keys() != {"bias"} or sites[0][1].scale != 1:
        raise DataError(
            f"--as {form} holds a vector that is added, and {place.edit.name} does more; use --as recipe"
        )
    ((site, affine),) = sites
    if site.layer - 1 < first:
        raise DataError(
            f"--as {form}: {place.edit.name} would have to be added after block {site.layer - 1}, and the "
            f"first that it can be added after is {first}; take --layers {first + 1} or above, or --as recipe"
        )
    assert affine.bias is not None  # noqa: S101  its only vector
    return site.layer - 1, affine.bias.float()


def vector(place: Place, to: Path) -> None:
    """Write the vector that is added after a block, as safetensors: `layers.N.output`, N counted from 0."""
    from safetensors.torch import save

    block, added = _steering(place, "vector", 0)
    files.write_bytes(to, save({f"layers.{block}.output": added}))


def gguf(place: Place, to: Path) -> None:
    """Write the vector as a control vector of llama.cpp: `direction.N` is added after block N, from 1 on."""
    from gguf import GGUFWriter

    block, added = _steering(place, "gguf", 1)
    writer = GGUFWriter(to, "controlvector")
    writer.add_string("controlvector.model_hint", str(place.lm.bridge.original_model.config.model_type))
    writer.add_uint32("controlvector.layer_count", place.lm.n_layers)
    writer.add_tensor(f"direction.{block}", added.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Form:
    """A form in which an edit leaves."""

    write: Callable[[Place, Path], None]
    file: str
    """The file, or the folder, that it is written to."""
    holds: str
    """In words, what it holds and how it is loaded."""


FORMS = {
    "weights": Form(weights, "weights", "the whole model: AutoModelForCausalLM.from_pretrained"),
    "ia3": Form(ia3, "ia3", "a PEFT adapter: PeftModel.from_pretrained(base, folder)"),
    "vector": Form(vector, "vector.safetensors", "layers.N.output: add it to the output of block N, from 0"),
    "gguf": Form(gguf, "control-vector.gguf", "a control vector of llama.cpp: --control-vector FILE"),
}
"""Every form beside the recipe, which is always written."""
