"""Which sites `--heads` and `--layers` mean, and other choices written with commas."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from biasscope.engine.errors import UsageError
from biasscope.engine.types import Site

if TYPE_CHECKING:
    from biasscope.engine.model.loading import LM
    from biasscope.engine.model.shape import Shape


@dataclass(frozen=True)
class Choice:
    """What was written after --heads and --layers; None: everything."""

    heads: tuple[tuple[int, int], ...] | None
    layers: tuple[int, ...] | None

    @classmethod
    def parse(cls, heads: str | None, layers: str | None) -> "Choice":
        """The choice as written, unchecked against a model; UsageError where it cannot be read."""
        return cls(
            None if heads is None else parse_heads(heads), None if layers is None else parse_layers(layers)
        )

    def sites(self, lm: "LM") -> list[Site]:
        """The sites of that model; UsageError, with the valid range, outside it."""
        if self.heads is not None:
            for layer, head in self.heads:
                if layer >= lm.n_layers or head >= lm.n_heads:
                    ranges = f"layers 0-{lm.n_layers - 1}, heads 0-{lm.n_heads - 1}"
                    raise UsageError(f"head {layer}.{head} is not in {lm.name}; it has {ranges}")
            return [Site(layer, "z", head) for layer, head in self.heads]
        from biasscope.engine.measure import sources

        return sources.sites(lm, ("z", "mlp_out"), self.layers)


def parse_heads(text: str) -> tuple[tuple[int, int], ...]:
    """Layer and head of each of "5.3,10.12"."""
    matches = [re.fullmatch(r"(\d+)\.(\d+)", part.strip(), re.ASCII) for part in text.split(",")]
    if not all(matches):
        raise UsageError(
            f"--heads '{text}' cannot be read; write LAYER.HEAD, separated by commas, such as 5.3,10.12"
        )
    return tuple(sorted({(int(match[1]), int(match[2])) for match in matches if match}))


def parse_sites(option: str, text: str) -> tuple[Site, ...]:
    """The heads and MLPs of "5.3,10.mlp"."""
    matches = [re.fullmatch(r"(\d{1,5})\.(\d{1,5}|mlp)", part.strip(), re.ASCII) for part in text.split(",")]
    if not all(matches):
        raise UsageError(
            f"{option} '{text}' cannot be read; write LAYER.HEAD or LAYER.mlp, separated by commas, such as "
            "5.3,10.mlp"
        )
    sites = [
        Site(int(m[1]), "mlp_out") if m[2] == "mlp" else Site(int(m[1]), "z", int(m[2])) for m in matches if m
    ]
    return tuple(sorted(set(sites)))


def in_identity(given: Sequence[Site]) -> dict[str, list[str]]:
    """The entry of --given in a run's identity; empty without it, so that other runs keep their keys."""
    return {"given": list(map(str, given))} if given else {}


def inside(lm: "LM | Shape", sites: Sequence[Site]) -> list[Site]:
    """The sites, after checking that the model has them. UsageError, with the valid range, where not."""
    for site in sites:
        if site.layer >= lm.n_layers or (site.head or 0) >= lm.n_heads:
            raise UsageError(
                f"{site} is not in {lm.name}; it has layers 0-{lm.n_layers - 1}, heads 0-{lm.n_heads - 1}"
            )
    return list(sites)


def early(shape: "Shape | None", gone: Sequence[Site] = (), chosen: Choice = Choice(None, None)) -> None:
    """Refuse heads and layers that the model does not have, as far as its configuration says: before its
    weights are loaded. UsageError, with the valid range.
    """
    if shape is None:
        return
    heads = [Site(layer, "z", head) for layer, head in chosen.heads or ()]
    inside(shape, [*heads, *(Site(layer, "mlp_out") for layer in chosen.layers or ()), *gone])


def apart(chosen: Choice, gone: Sequence[Site]) -> None:
    """Refuse heads that are to be both replaced all the while (--given) and measured (--heads)."""
    both = [f"{layer}.{head}" for layer, head in chosen.heads or () if Site(layer, "z", head) in gone]
    if both:
        raise UsageError(
            f"--heads {','.join(both)} is in --given too: what is already replaced has no effect to measure; "
            "leave it out"
        )


def without(sites: Sequence[Site], gone: Sequence[Site]) -> list[Site]:
    """The sites that are not replaced all the while, nor the query or pattern of a head that is.

    UsageError where none is left.
    """
    heads = {(site.layer, site.head) for site in gone if site.component == "z"}
    within = [s for s in sites if s.component in ("q", "pattern") and (s.layer, s.head) in heads]
    left = [site for site in sites if site not in gone and site not in within]
    if not left:
        raise UsageError("--given replaces every site that --layers names; name other layers")
    return left


def parse_layers(text: str) -> tuple[int, ...]:
    """The layers of "3,5,7-9"."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(
                f"--layers '{text}' cannot be read; write numbers and ranges, separated by commas, such as "
                "3,5,7-9"
            )
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def parse_words(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The words of "a,b", in the order of the known ones; UsageError for any other."""
    words = {word.strip() for word in text.split(",")}
    if "all" in words and len(words) > 1:
        raise UsageError(f"{option} '{text}': all is every position at once; write all, or others without it")
    if strange := sorted(words - set(known)):
        raise UsageError(
            f"{option} '{strange[0]}' is not one of {', '.join(known)}; write one or more, separated by "
            "commas"
        )
    return tuple(word for word in known if word in words)


def parse_sizes(text: str) -> tuple[int, ...]:
    """The sizes of "1,2,5"; UsageError where they are no numbers from 1 up."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(
            f"--sizes '{text}' cannot be read; write numbers from 1 up, separated by commas, such as 1,2,5,10"
        )
    return tuple(sorted({int(word) for word in words}))


def parse_doses(text: str, *, real: bool) -> tuple[float, ...]:
    """The doses of "0.25,0.5,1": from 0 to 1, or `real`: any numbers. UsageError for others."""
    try:
        doses = tuple(sorted({float(word) for word in text.split(",")}))
    except ValueError:
        doses = ()
    if not doses or not all(map(math.isfinite, doses)):
        raise UsageError(
            f"--doses '{text}' cannot be read; write numbers, separated by commas, such as 0.25,0.5,1"
        )
    if not real and not all(0 <= dose <= 1 for dose in doses):
        raise UsageError(
            f"--doses '{text}' has one outside 0 to 1: beyond 1 an edit reverses what it was fitted to; only "
            "--kind steer alone takes any dose"
        )
    return doses
