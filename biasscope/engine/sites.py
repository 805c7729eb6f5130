"""Where a model can be read and replaced: sites, their hook points, edges between them."""

from dataclasses import dataclass

COMPONENTS = ("z", "attn_out", "mlp_out", "resid_pre", "resid_post")
"""What `patch` replaces by default."""
INSIDE = {"q": "H{}.q", "k": "KV{}.k", "v": "KV{}.v", "pattern": "H{}.pattern", "neuron": "N{}"}
"""Components inside a head or an MLP → the name of one part of them; each is a family of its own."""
HOOKS: dict[str, str] = {
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    # not attn.hook_pattern: to edit that changes nothing in families whose attention is one fused step
    "pattern": "attn.hook_z",
    "neuron": "mlp.hook_post",
    "weights": "attn.hook_pattern",
    "attn_in": "ln1.hook_in",
    "mlp_in": "ln2.hook_in",
    "attn_raw": "ln1_post.hook_in",
}
"""Where a component is read and replaced. How heads attend (`weights`) can only be read; what enters parts of
a layer, before its norm: `attn_in`, `mlp_in`; what its heads put out together, before a norm: `attn_raw`.
"""
EDGE = "edge"
"""The component of rows about edges: `layer` is that of the input, `head` the edge's number in the graph."""
FINAL = "final"
"""The component of the last layer that stands for what enters the final norm."""
POSITIONS = ("all", "term", "between", "readout")
"""Which nodes of a prompt are replaced: every one (and those of its fillers), the term's, those after the
term, the last one.
"""


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model: a component of a layer, and which part of it where it has several."""

    layer: int
    component: str
    head: int | None = None
    """The head; of `k` and `v` the key-value head, of `neuron` the entry of the MLP's hidden layer."""

    @property
    def hook(self) -> str:
        """TransformerLens's name of the hook point, such as `blocks.5.attn.hook_z`."""
        if self.component == FINAL:
            return "ln_final.hook_in"
        return f"blocks.{self.layer}.{HOOKS[self.component]}"

    def __str__(self) -> str:
        if self.component == EDGE:
            return f"edge {self.head}"
        if self.head is not None:
            return f"L{self.layer}" + INSIDE.get(self.component, "H{}").format(self.head)
        if self.component == FINAL:
            return "logits"
        return f"L{self.layer}.{'mlp' if self.component in ('mlp_out', 'mlp_in') else self.component}"


@dataclass(frozen=True, order=True)
class Edge:
    """What one part of the model reads of another's output, directly by the residual stream."""

    up: Site
    """The embedding (`resid_pre` of layer 0), a head's `z` or an `mlp_out`."""
    down: Site
    """A query, key or value, an `mlp_in`, or what enters the final norm."""

    def __str__(self) -> str:
        first = "embed" if self.up.component == "resid_pre" else str(self.up)
        return f"{first} → {self.down}"


EDIT = Site(0, "edit")
"""Stands for an edit, named by the position: layer null in tables."""
SET = Site(0, "set")
"""Stands for a set of sites replaced together, named by the position: layer null in tables."""
NO_SITE = "none"
"""The position of effects with every site of a set replaced: none of them is kept."""
MEMBER = "member"
"""The statistic of SUMMARY rows that name a site of a set and hold no number."""
