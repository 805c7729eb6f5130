"""An affine map of activations with fixed numbers: what an edit that can leave as a file puts at a site."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from biasscope.engine.model import forward
from biasscope.engine.model.packing import Block
from biasscope.engine.types import Site

VECTORS = ("left", "right", "bias")


@dataclass(frozen=True)
class Affine:
    """x → scale · x − left (rightᵀ x) + bias, at every node or at all but the first position."""

    scale: float = 1.0
    left: Float[Tensor, " d"] | None = None
    right: Float[Tensor, " d"] | None = None
    """Both or neither of `left` and `right`."""
    bias: Float[Tensor, " d"] | None = None
    first: bool = True
    """Whether the first position, which is an attention sink in the residual stream, is changed too."""

    def __call__(self, act: Float[Tensor, "*place d"]) -> Float[Tensor, "*place d"]:
        """The activation that stands in the place of this one, in its own numbers."""
        new = act * self.scale
        if self.left is not None and self.right is not None:
            left, right = (vector.to(act) for vector in (self.left, self.right))
            new = new - (act @ right)[..., None] * left
        return new if self.bias is None else new + self.bias.to(act)

    def put(self, block: Block, site: Site) -> forward.Put:
        """The replacement at a site of a block, and the nodes that get it."""
        return forward.Put(self, None if self.first else block.depth > 0)

    @property
    def vectors(self) -> dict[str, Tensor]:
        """Its vectors by name, those that it has."""
        return {name: value for name in VECTORS if (value := getattr(self, name)) is not None}
