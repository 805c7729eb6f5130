"""An edit as a file: vectors as safetensors, all else as JSON in their metadata. No torch until it stands.

The file knows the weights that it was fitted to and its own digest: another model, or a changed number, is
refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biasscope.engine.errors import DataError
from biasscope.engine.settings import KINDS
from biasscope.engine.store import digests, files
from biasscope.engine.types import HOOKS, Edit, Site

FILE = "edit.safetensors"
FORMAT = 1
OPERATION = "x -> scale * x - left * (right . x) + bias"
"""In this order, at every position, or at all but the first where `first` is false."""
_FIELDS = {"name": str, "kind": str, "dose": float | int, "sites": list, "model": dict, "digest": str}


@dataclass(frozen=True)
class Recipe:
    """An edit of numbers alone, and the weights that it is of."""

    name: str
    kind: str
    dose: float
    sites: tuple[Mapping[str, Any], ...]
    """Layer, component, head, scale, first of each site."""
    vectors: Mapping[str, np.ndarray]
    """"SITE.left", "SITE.right", "SITE.bias", SITE being the place in `sites`: float32."""
    model: Mapping[str, Any]
    """name, digest (sha256 of the weights), type, layers and heads of the model."""
    about: Mapping[str, Any]
    """How it came about, for people: data, seed, dose, command."""

    @property
    def digest(self) -> str:
        """The sha256 of all that decides what the edit does, the same for every file it came in."""
        sums = {name: digests.of_bytes(v.astype("<f4").tobytes()) for name, v in sorted(self.vectors.items())}
        sites = [dict(site) for site in self.sites]
        return digests.digest([self.kind, self.dose, sites, sums, self.model["digest"]])

    def __str__(self) -> str:
        return f"{self.name} ({self.digest[:12]})"

    @property
    def edit(self) -> Edit:
        """The edit, ready to stand in a model."""
        import torch

        from biasscope.engine.model.edits.affine import Affine

        at: dict[Site, Affine] = {}
        for number, site in enumerate(self.sites):
            prefix = f"{number}."
            own = {
                key.removeprefix(prefix): torch.from_numpy(np.array(vector))
                for key, vector in self.vectors.items()
                if key.startswith(prefix)
            }
            place = Site(site["layer"], site["component"], site["head"])
            at[place] = Affine(site["scale"], **own, first=site["first"])
        return Edit(at, self.name, self.kind, self.dose)

    def check(self, digest: str, model: str) -> None:
        """Raise DataError where it is not of the weights with that digest."""
        if digest != self.model["digest"]:
            raise DataError(
                f"the edit {self.name} is of {self.model['name']} with weights {self.model['digest'][:12]}…, "
                f"{model} has {digest[:12]}…; give the model that it was fitted to, or fit it anew"
            )

    def fit(self, heads: int, layers: int, widths: tuple[int, int]) -> None:
        """Raise DataError where a site or a vector is none of a model of that many layers and heads.

        `widths`: of a head and of the residual stream.
        """
        for number, site in enumerate(self.sites):
            head = site["head"]
            if not 0 <= site["layer"] < layers or not 0 <= (head or 0) < heads:
                raise DataError(
                    f"the edit {self.name} is at {_site(site)}; the model has layers 0-{layers - 1} and "
                    f"heads 0-{heads - 1}"
                )
            for key, vector in self.vectors.items():
                wanted = widths[0 if site["component"] == "z" else 1]
                if key.startswith(f"{number}.") and vector.shape != (wanted,):
                    raise DataError(
                        f"the edit {self.name} has a vector of shape {vector.shape} at {_site(site)}; the "
                        f"model's is ({wanted},)"
                    )


def of(edit: Edit, model: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of an edit of affine maps."""
    sites: list[dict[str, Any]] = []
    vectors: dict[str, np.ndarray] = {}
    for number, (site, affine) in enumerate(sorted(edit.at.items())):
        own = {"layer": site.layer, "component": site.component, "head": site.head}
        sites.append(own | {"scale": affine.scale, "first": affine.first})
        vectors |= {f"{number}.{name}": vector.float().numpy() for name, vector in affine.vectors.items()}
    return Recipe(edit.name, edit.kind, edit.dose, tuple(sites), vectors, dict(model), dict(about or {}))


def write(recipe: Recipe, file: Path) -> None:
    """Write the recipe; it names no folder of this machine."""
    from safetensors.numpy import save

    content = {name: getattr(recipe, name) for name in ("name", "kind", "dose", "model", "about", "digest")}
    content |= {"format": FORMAT, "operation": OPERATION, "sites": [dict(site) for site in recipe.sites]}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    files.write_bytes(file, save(dict(recipe.vectors), {"biasscope": text}))


def read(file: Path) -> Recipe:
    """The recipe in a file. DataError where it is none, was changed, or names a site that no model has."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as held:
            text = (held.metadata() or {}).get("biasscope")
            vectors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  not a dictionary
    except (OSError, SafetensorError) as problem:
        raise DataError(f"--edit {file} cannot be read as safetensors: {problem}") from problem
    if text is None:
        raise DataError(f"--edit {file} is no edit of biasscope; `biasscope mitigate --export` writes {FILE}")
    content = _content(file, text)
    sites = tuple(_checked(file, site) for site in content["sites"])
    same = (content["name"], content["kind"], float(content["dose"]), sites, vectors)
    recipe = Recipe(*same, content["model"], content.get("about", {}))
    if recipe.digest != content["digest"]:
        raise DataError(
            f"--edit {file} was changed after it was written (digest {recipe.digest[:12]}…, recorded "
            f"{content['digest'][:12]}…); export it again"
        )
    return recipe


def _content(file: Path, text: str) -> dict[str, Any]:
    """The JSON of a file's metadata. DataError where it is not what `write` writes."""
    try:
        content = json.loads(text)
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(content.get(name), kind)]
    except (ValueError, AttributeError):
        content, wrong = {}, list(_FIELDS)
    if (
        wrong
        or content.get("format") != FORMAT
        or content["kind"] not in KINDS
        or not {"name", "digest"} <= content["model"].keys()
    ):
        what = f"without {', '.join(wrong)}" if wrong else "of another format"
        raise DataError(f"--edit {file} holds an edit {what}; export it again with this version")
    return dict(content)


def _checked(file: Path, site: Any) -> dict[str, Any]:
    """A site of a recipe. DataError where it is none that an edit may stand at."""
    kinds = {"layer": int, "component": str, "head": int | None, "scale": float | int, "first": bool}
    right = isinstance(site, dict) and site.keys() == kinds.keys()
    if not right or not all(isinstance(site[name], kind) for name, kind in kinds.items()):
        raise DataError(f"--edit {file} has a site that cannot be read: {site}; export it again")
    if site["component"] not in HOOKS or (site["head"] is not None) != (site["component"] == "z"):
        raise DataError(f"--edit {file} names the site {_site(site)}, which is none of: {', '.join(HOOKS)}")
    return dict(site) | {"scale": float(site["scale"])}


def _site(site: Mapping[str, Any]) -> str:
    """A site of a recipe as people read it."""
    head = "" if site["head"] is None else f".{site['head']}"
    return f"{site['layer']}.{site['component']}{head}"
