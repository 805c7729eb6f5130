"""The residual stream as a graph: what each part of a model adds to it, and what each part reads of it.

Nodes above are the embedding, every head (through its own rows of W_O) and every MLP; inputs below are every
head's query, key and value, every MLP's input and what enters the final norm, each behind its own norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.model.loading import LM
from biasscope.engine.types import FINAL, Edge, Site

READ = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class Stream:
    """A model's graph, and the linear maps between its nodes and its stream."""

    lm: LM
    parallel: bool
    """Whether attention and MLP of a layer read the same stream, so that the MLP does not see its heads."""
    _into: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    _out: dict[int, Tensor] = field(default_factory=dict)
    _bias: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    @cached_property
    def ups(self) -> list[Site]:
        """The nodes that add to the stream, in its order."""
        parts = [
            [*(Site(layer, "z", head) for head in range(self.lm.n_heads)), Site(layer, "mlp_out")]
            for layer in range(self.lm.n_layers)
        ]
        return [Site(0, "resid_pre"), *(site for layer in parts for site in layer)]

    @cached_property
    def downs(self) -> list[Site]:
        """The inputs that read it, in its order; those of one layer's attention stand together."""
        sites = []
        for layer in range(self.lm.n_layers):
            sites += [Site(layer, name, part) for name in READ for part in range(self.lm.parts(name) or 0)]
            sites.append(Site(layer, "mlp_in"))
        return [*sites, Site(self.lm.n_layers - 1, FINAL)]

    def above(self, down: Site) -> int:
        """How many of `ups` an input reads: the first so many."""
        if down.component == FINAL:
            return len(self.ups)
        before = 1 + down.layer * (self.lm.n_heads + 1)
        return before + (self.lm.n_heads if down.component == "mlp_in" and not self.parallel else 0)

    @cached_property
    def edges(self) -> list[Edge]:
        """Every edge, by the input and then by the node: its place here is its number."""
        return [Edge(up, down) for down in self.downs for up in self.ups[: self.above(down)]]

    @cached_property
    def number(self) -> dict[Edge, int]:
        """The number of each edge."""
        return {edge: number for number, edge in enumerate(self.edges)}

    def block(self, layer: int) -> Any:
        """The layer's modules, with TransformerLens's names."""
        return self.lm.bridge.blocks[layer]

    def into(self, layer: int, name: str) -> Float[Tensor, "part d_head d_model"]:
        """What a query, key or value takes of what its norm gives."""
        if (layer, name) not in self._into:
            matrix = _matrix(getattr(self.block(layer).attn, name), self.lm.d_model, self.lm)
            parts = matrix.unflatten(1, (self.lm.parts(name) or 1, -1))
            self._into[layer, name] = parts.permute(1, 2, 0).contiguous()
        return self._into[layer, name]

    def out(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """W_O: what each entry of a head's output adds, before any norm that follows."""
        if layer not in self._out:
            width = self.into(layer, "q").shape[0] * self.into(layer, "q").shape[1]
            matrix = _matrix(self.block(layer).attn.o, width, self.lm)
            self._out[layer] = matrix.unflatten(0, (self.lm.n_heads, -1)).contiguous()
        return self._out[layer]

    def bias(self, layer: int, name: str) -> Float[Tensor, "part d_head"]:
        """What a query, key or value is of nothing."""
        if (layer, name) not in self._bias:
            kind = {"device": self.lm.device, "dtype": getattr(torch, self.lm.dtype)}
            with torch.no_grad():
                nothing = getattr(self.block(layer).attn, name)(torch.zeros(1, 1, self.lm.d_model, **kind))
            self._bias[layer, name] = nothing.view(self.lm.parts(name) or 1, -1).float()
        return self._bias[layer, name]

    def put_out(
        self, layer: int, z: Float[Tensor, "row node head d_head"]
    ) -> Float[Tensor, "row node d_model"]:
        """What the heads of a layer put out together, before any norm that follows."""
        module = self.block(layer).attn.o
        with torch.no_grad():
            # not the module with its hooks: this is called from one of them
            return module.original_component(z.flatten(2))

    def after(self, layer: int) -> Any:
        """The norm through which the heads' output reaches the stream, as in Gemma; None: none."""
        return getattr(self.block(layer), "ln1_post", None)

    def added(
        self, layer: int, change: Float[Tensor, "node head d_head"], raw: Tensor | None
    ) -> Float[Tensor, "head node d_model"]:
        """What changes of heads' outputs add to the stream; where a norm follows (`raw`: what enters it), to
        first order.
        """
        written = torch.einsum("nhk,hkd->hnd", change, self.out(layer))
        norm = self.after(layer)
        if norm is None or raw is None:
            return written
        return torch.func.jvp(norm, (raw.expand_as(written).clone(),), (written,))[1]

    def pulled(
        self, layer: int, entered: Float[Tensor, "node d_model"], grads: Sequence[Tensor]
    ) -> Float[Tensor, "part node d_model"]:
        """Gradients at queries, keys and values, `node part d_head` each, taken to the stream before their
        norm.
        """
        parts = [
            torch.einsum("npk,pkd->pnd", g, self.into(layer, name))
            for g, name in zip(grads, READ, strict=True)
        ]
        back = torch.cat(parts)
        with torch.enable_grad():
            point = entered.expand_as(back).contiguous().requires_grad_()
            normed = self.block(layer).ln1(point)
            return torch.autograd.grad(normed, point, back)[0]


def _matrix(module: Any, width: int, lm: LM) -> Float[Tensor, "width out"]:
    """The matrix of a linear module, however its weights are laid out: what it makes of each unit vector."""
    kind = {"device": lm.device, "dtype": getattr(torch, lm.dtype)}
    with torch.no_grad():
        rows = module(torch.eye(width, **kind)[None]) - module(torch.zeros(1, 1, width, **kind))
    return rows[0].reshape(width, -1).float()
