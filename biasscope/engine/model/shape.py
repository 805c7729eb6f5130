"""How many layers and heads a model has: as its configuration says, before its weights are loaded."""

import json
from dataclasses import dataclass
from pathlib import Path

LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
HEADS = ("n_head", "num_attention_heads", "num_heads", "n_heads")
"""What configurations call their numbers of layers and heads."""


@dataclass(frozen=True)
class Shape:
    """How many layers and heads a model has."""

    name: str
    n_layers: int
    n_heads: int


def shape(name: str, folder: Path) -> Shape | None:
    """A model's layers and heads, as its configuration says; None where it does not."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        config = {**config, **config.get("text_config", {})}
        layers, heads = ([config[key] for key in keys if key in config] for keys in (LAYERS, HEADS))
        return Shape(name, int(layers[0]), int(heads[0]))
    except (OSError, ValueError, IndexError, TypeError, AttributeError):
        return None
