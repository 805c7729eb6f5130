"""An edit of a planted model as a file."""

from pathlib import Path

from biasscope.engine.model import loading
from biasscope.engine.model.edits import recipe
from biasscope.engine.model.edits.affine import Affine
from biasscope.engine.types import Edit, Site


def without_a_decoy(folder: Path) -> Path:
    """The file of planted:single without its head L2H3."""
    lm = loading.load("planted:single", cache_dir=folder)
    model = {"name": lm.name, "digest": lm.digest, "type": "gpt2", "layers": lm.n_layers, "heads": lm.n_heads}
    file = folder / "edit.safetensors"
    recipe.write(recipe.of(Edit({Site(2, "z", 3): Affine(0.0)}, "zero-1@1", "zero"), model), file)
    return file
