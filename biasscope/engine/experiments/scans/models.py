"""The model of an experiment: located, booted, edited, described."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DataError
from biasscope.engine.model import devices, loading, weights
from biasscope.engine.model import shape as model_shape
from biasscope.engine.model.edits import recipe
from biasscope.engine.model.shape import Shape
from biasscope.engine.settings import Measure, Voice, clock
from biasscope.engine.store import runs
from biasscope.engine.types import UNEDITED

CONVERTED = 3.3e6
"""Bytes of a GGUF file that are converted in a second, roughly."""


def booted(weights: weights.Weights, options: Measure, voice: Voice) -> loading.LM:
    """The model with these weights, loaded and checked."""
    from biasscope.engine.model import exactness

    voice.note(f"loading {options.model}" + (f", {weights.note}" if weights.note else ""))
    return exactness.check_packing(loading.boot(weights, device=options.device, dtype=options.dtype.value))


def model(options: Measure, voice: Voice) -> loading.LM:
    """The model of these settings, for what measures no data set."""
    devices.check_device(options.device)
    found = located(options, voice)
    with voice.hushed():
        return booted(found, options, voice)


def shape(where: weights.Weights | loading.LM, name: str) -> Shape | None:
    """The model's shape before its weights are loaded; None where its configuration does not say."""
    return where.shape if isinstance(where, loading.LM) else model_shape.shape(name, where.folder)


def located(options: Measure, voice: Voice) -> weights.Weights:
    """The weights of the requested model, converted where needed."""
    if (file := weights.unconverted(options.model, options.cache_dir)) is not None:
        seconds = max(5.0, file.stat().st_size / CONVERTED)
        voice.note(f"converting {options.model} once ({file.name}), about {clock(seconds)}")
    with voice.hushed():
        return weights.locate(
            options.model, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline
        )


def edited(lm: loading.LM, edit: recipe.Recipe | None) -> loading.LM:
    """The model in which this edit stands, and no other. DataError where it is none of this model's shape."""
    if edit is None:
        return replace(lm, edit=UNEDITED)
    width = lm.bridge.blocks[0].attn.W_O.shape[-2]
    edit.fit(lm.n_heads, lm.n_layers, (width, lm.d_model))
    return replace(lm, edit=edit.edit)


def as_measured(lm: loading.LM, params: Mapping[str, Any]) -> loading.LM:
    """The model as a run with these parameters measured it: with its edit, if it had one."""
    return edited(lm, measured_edit(params))


def measured_edit(params: Mapping[str, Any]) -> recipe.Recipe | None:
    """The edit that stood in a run with these parameters. DataError where its file holds another by now."""
    if not params.get("edit"):
        return None
    edit, known = recipe.read(Path(params["edit"])), params.get(runs.EDITED)
    if known is not None and str(edit) != known:
        raise DataError(
            f"{params['edit']} holds the edit {edit}, the run was measured with {known}; put that file back, "
            "or measure again"
        )
    return edit


def described(lm: loading.LM) -> runs.ModelPart:
    """The model as the record shows it."""
    names = ("name", "revision", "digest", "tokenizer_digest", "dtype", "device", "note", "packed", "d_model")
    same = {name: getattr(lm, name) for name in names}
    token = None if lm.start is None else lm.tokenizer.convert_ids_to_tokens(lm.start)
    return runs.ModelPart(**same, start_token=token, layers=lm.n_layers, heads=lm.n_heads)
