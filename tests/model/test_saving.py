"""An exported edit is, in a process that knows neither biasscope nor TransformerLens, what was measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from biasscope.engine.errors import DataError
from biasscope.engine.measure import edits
from biasscope.engine.model import forward, weights
from biasscope.engine.model.edits import readback, recipe, saving
from biasscope.engine.model.loading import boot
from biasscope.engine.model.packing import Scored, pack
from biasscope.engine.types import Edit, Site
from tests.support.examples import example
from tests.support.reloaded import elsewhere

FAMILIES = ("gpt2", "gpt-neo", "llama", "gemma3", "qwen2", "llama-narrow")
TEXTS = ("The nurse said that", "My father had told someone that she", "The plumber")
HOLDS = {
    "weights": ("zero", "half", "mean", "project", "steer"),
    "ia3": ("zero", "half"),
    "merged": ("zero", "half"),
    "vector": ("steer",),
    "gguf": ("steer",),
}
NOT_HELD = {
    (
        "weights",
        "qwen2",
        "mean",
    ): "no bias at its attn output, which mean needs; use --kind zero, or --as recipe",
    (
        "weights",
        "qwen2",
        "steer",
    ): "no bias at its mlp output, which steer needs; use --as vector, gguf or recipe",
    ("weights", "gemma3", "steer"): "no bias at its mlp output",
}


def made(lm, kind: str) -> Edit:
    """An edit of a kind, at two heads of a layer and one of another, or before the third layer."""
    last = lm.n_layers - 1
    heads = [Site(0, "z", 1), Site(last, "z", 0), Site(last, "z", lm.n_heads - 1)]
    width = lm.bridge.blocks[0].attn.W_O.shape[-2]
    rng = torch.Generator().manual_seed(5)
    if kind in ("zero", "half"):
        return Edit(
            edits.at_heads("zero", dict.fromkeys(heads), 1.0 if kind == "zero" else 0.5), kind, "zero"
        )
    if kind == "mean":
        means = {site: torch.randn(width, generator=rng) for site in heads}
        return Edit(edits.at_heads("mean", means, 0.75), kind, "mean", 0.75)
    if kind == "project":
        axes = {
            site: torch.nn.functional.normalize(torch.randn(width, generator=rng), dim=0) for site in heads
        }
        return Edit(edits.at_heads("project", axes, 1.0), kind, "project")
    added = torch.randn(lm.d_model, generator=rng).numpy()
    if kind == "erase":
        found = edits.Direction(added, added / (added @ added), added)
        return Edit(found.at(last, 1.0), kind, "erase")
    return Edit(edits.Direction(added).at(min(2, last), 1.0), kind, "steer")


def hooked(lm, edit: Edit, texts: list[list[int]]) -> list[torch.Tensor]:
    """The logits of each text's last token in the model in which the edit stands."""
    standing = replace(lm, edit=edit)
    found = []
    for ids in texts:
        block = pack([[Scored((*ids, 0), len(ids), 0)]], [(0,)], "all", False)
        with torch.no_grad():
            found.append(forward.run(standing, block, {})[0, -1])
    return found


def jobs_of(lm, base: Path, folder: Path, texts, holds=HOLDS, missing=()):
    """What is exported of a model, as jobs of the other process, each with the edit's kind."""
    for form, kinds in holds.items():
        for kind in kinds:
            if (form, lm.name, kind) in missing:
                continue
            form_ = "ia3" if form == "merged" else form
            path = folder / f"{form}-{kind}" / saving.FORMS[form_].file
            path.parent.mkdir(parents=True, exist_ok=True)
            saving.FORMS[form_].write(saving.Place(lm, made(lm, kind), base), path)
            yield kind, {"form": form, "base": str(base), "path": str(path), "texts": texts}


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """(family, form, kind) → logits read back elsewhere and those of the hooked model, and the base's."""
    jobs, wanted = [], []
    root = tmp_path_factory.mktemp("exports")
    for family in FAMILIES:
        base = tiny_folder(family)
        lm = boot(weights.Weights(family, base, None, "0" * 64), device="cpu")
        texts = [lm.tokenizer(text).input_ids for text in TEXTS]
        shallow = {**HOLDS, "gguf": ()} if lm.n_layers == 2 else HOLDS
        for kind, job in jobs_of(lm, base, root / family, texts, shallow, NOT_HELD):
            jobs.append(job)
            plain = hooked(lm, Edit({}), texts)
            wanted.append((family, job["form"], kind, hooked(lm, made(lm, kind), texts), plain))
    return root, list(zip(wanted, elsewhere(jobs), strict=True))


def test_every_form_read_back_elsewhere_is_the_edit_and_not_the_base(exported):
    _, results = exported
    assert len(results) > 50
    for (family, form, kind, own, plain), found in results:
        for here, base, there in zip(own, plain, map(torch.tensor, found), strict=True):
            apart = float((here.log_softmax(-1) - there.log_softmax(-1)).abs().max())
            moved = float((base.log_softmax(-1) - there.log_softmax(-1)).abs().max())
            assert apart < 1e-4, (family, form, kind, apart)
            assert moved > 1e-3, (family, form, kind, moved)


def test_no_exported_file_names_a_folder_of_this_machine(exported, tiny_folder):
    root, _ = exported
    names = [str(root.parent).encode(), *(str(tiny_folder(family)).encode() for family in FAMILIES)]
    for file in root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [name for name in (*names, b"/home/", b"/root/", b"/tmp/") if name in content], file


@pytest.mark.parametrize(("form", "family", "kind"), NOT_HELD)
def test_what_a_family_cannot_hold_is_refused_with_what_can(tiny_folder, tmp_path, form, family, kind):
    lm = boot(weights.Weights(family, tiny_folder(family), None, "0" * 64), device="cpu")
    place = saving.Place(lm, made(lm, kind), tiny_folder(family))
    with pytest.raises(DataError, match=NOT_HELD[form, family, kind]):
        saving.FORMS[form].write(place, tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "kind", "message"),
    [
        ("weights", "erase", "maps the residual stream, which is no weight .* use --as recipe"),
        ("ia3", "mean", "can only scale heads, and mean does more; use --kind zero, or --as recipe"),
        ("ia3", "project", "can only scale heads"),
        ("ia3", "steer", "use --as vector, gguf or recipe"),
        ("vector", "zero", "holds a vector that is added, and zero does more; use --as recipe"),
        ("gguf", "erase", "holds a vector that is added"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(tiny, tiny_folder, tmp_path, form, kind, message):
    lm = tiny("llama")
    with pytest.raises(DataError, match=message):
        saving.FORMS[form].write(saving.Place(lm, made(lm, kind), tiny_folder("llama")), tmp_path / "out")


def test_a_control_vector_needs_a_block_before_it(tiny, tiny_folder, tmp_path):
    lm = tiny("llama")
    steers = [
        Edit(edits.Direction(torch.ones(48).numpy()).at(layer, 1.0), "steer", "steer") for layer in (0, 1)
    ]
    first, second = (saving.Place(lm, edit, tiny_folder("llama")) for edit in steers)
    for form, place in (("weights", first), ("vector", first), ("gguf", first), ("gguf", second)):
        with pytest.raises(DataError, match="--as recipe|use --as vector"):
            saving.FORMS[form].write(place, tmp_path / "out")
    saving.FORMS["vector"].write(second, tmp_path / "out")


def test_the_difference_that_the_card_gives_is_found_where_there_is_one(tiny, tiny_folder, tmp_path):
    lm = tiny("llama")
    place = saving.Place(lm, made(lm, "mean"), tiny_folder("llama"))
    saving.weights(place, tmp_path / "out")
    said = [example(0, "The nurse said that"), example(1, "The teacher is", " very kind", " strong")]
    assert readback.difference(place, tmp_path / "out", "weights", said) < 1e-4
    other = replace(place, edit=made(lm, "zero"))
    assert readback.difference(other, tmp_path / "out", "weights", said) > 1e-3
    with pytest.raises(DataError, match="nats .this family cannot hold zero; "):
        readback.check(other, tmp_path / "out", "weights", said)
    rounded = replace(other, lm=replace(lm, dtype="bfloat16"))
    with pytest.raises(DataError, match="bfloat16 rounds more than that"):
        readback.check(rounded, tmp_path / "out", "weights", said)
    with pytest.raises(DataError, match="no example kept"):
        readback.check(place, tmp_path / "out", "weights", [])


def test_a_recipe_is_the_measured_edit(tiny, tmp_path):
    lm = tiny("llama")
    texts = [lm.tokenizer(text).input_ids for text in TEXTS]
    for kind in ("mean", "project", "erase", "steer"):
        edit = made(lm, kind)
        facts = {"name": "tiny", "digest": lm.digest, "type": "llama", "layers": 4, "heads": 4}
        recipe.write(recipe.of(edit, facts), tmp_path / "edit.safetensors")
        back = recipe.read(tmp_path / "edit.safetensors").edit
        for one, other in zip(hooked(lm, edit, texts), hooked(lm, back, texts), strict=True):
            assert torch.equal(one, other)


@pytest.mark.real
@pytest.mark.slow
def test_smollm2_s_edits_leave_exactly(smollm2, cache_dir, tmp_path):
    base = weights.locate(weights.DEFAULT, cache_dir=cache_dir).folder
    texts = [smollm2.tokenizer(text).input_ids for text in TEXTS[:2]]
    holds = {"weights": ("mean", "steer"), "ia3": ("zero",), "vector": ("steer",), "gguf": ("steer",)}
    pairs = list(jobs_of(smollm2, base, tmp_path, texts, holds))
    for (kind, job), found in zip(pairs, elsewhere([job for _, job in pairs]), strict=True):
        for here, there in zip(
            hooked(smollm2, made(smollm2, kind), texts), map(torch.tensor, found), strict=True
        ):
            apart = (here.log_softmax(-1) - there.log_softmax(-1)).abs().max()
            assert apart < 1e-3, (job["form"], kind)
    config = json.loads((tmp_path / "weights-steer" / "weights" / "config.json").read_text(encoding="utf-8"))
    assert config["mlp_bias"] and not config.get("attention_bias")
