"""GPT-2 models with hand-set weights, whose effects are known in closed form: what `verify` and the tests
measure against.

Why it works. LayerNorm is the identity up to centring, because its epsilon swamps the variance. Features are
orthogonal rows of a Hadamard matrix with zero mean, so centring does not touch them. A planted head attends
to the occupation alone (score 64). An MLP's gelu is exactly 0 or x away from its knots, so it computes a
piecewise-linear function. All other weights are noise that reads noise dimensions only and writes a little
gender and pronoun.

The words are those of `occupations` and `definitional`, one token each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasscope.engine.data import datasets
from biasscope.engine.errors import UsageError
from biasscope.engine.types import Site

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
STRENGTH = "@"
"""Before the factor on what the planted heads do: `single@0.5`."""
STRONGEST = 4.0
KINDS = {
    "single": "one head moves the graded stereotype; a decoy raises both pronouns, an MLP shifts the base "
    "rate, a head knows facts",
    "redundant": "two heads write the same slot and an MLP clips it: each alone is not needed",
    "backup": "a second head acts only where the first has not written",
    "cancelling": "two heads of opposite sign, and a head that moves what is no stereotype",
    "masked": "an MLP undoes a head to first order",
    "graded": "half of the heads have a known strength each, the others are noise",
}
LAYERS, HEADS, WIDTH, D_HEAD, HALF = 4, 4, 64, 16, 32
A, B, C = 2.0, 1.5, 0.75
"""Nats: the bias head at the most extreme occupation, the decoy per unit of competence, the base-rate MLP."""
NOISE = 0.3
SHARP = 32.0
"""An input half a unit from a knot is a pre-activation of 16, where gelu_new is exactly 0 or x."""
FEATURES = ("s", "q", "t", "c", "occupation", "slot", "done", "gender", "pronoun", "fact", "noun")
SIDES = {" he": 1, " his": 1, " him": 1, " she": -1, " her": -1}
SITES = {
    "first": Site(1, "z", 2),
    "second": Site(2, "z", 1),
    "decoy": Site(0, "z", 1),
    "mixed": Site(1, "z", 3),
    "factual": Site(2, "z", 3),
    "base": Site(2, "mlp_out"),
    "squash": Site(3, "mlp_out"),
}
"""Role → where it is planted."""


@dataclass(frozen=True)
class Words:
    """The vocabulary and what each occupation and noun carries."""

    texts: tuple[str, ...]
    occupations: Mapping[str, Mapping[str, float]]
    """Occupation → s: graded stereotype, share of men standardised and scaled to at most 1; q: its sign; t:
    as large, uncorrelated with both; c: competence, 0.5 to 2.
    """
    nouns: Mapping[str, float]
    """Noun of `definitional` → 1 (male) or −1."""


def words() -> Words:
    """The words of the datasets that ship with the package."""
    import numpy as np

    data = [
        example
        for name in ("occupations", "definitional")
        for example in datasets.load(name, Path()).examples
    ]
    share = {e.group: 100 - float(e.meta["bls_pct_female"]) for e in data if "bls_pct_female" in e.meta}
    names = sorted(share, key=lambda name: (share[name], name))
    x = np.array([share[name] for name in names])
    s = (x - x.mean()) / np.abs(x - x.mean()).max()
    q = np.where(x > 50, 1.0, -1.0)
    pattern = np.resize([1.0, -1.0, -1.0, 1.0], len(names))
    others = np.stack([np.ones_like(s), s, q])
    t = pattern - others.T @ np.linalg.lstsq(others.T, pattern, rcond=None)[0]
    t, c = t / np.abs(t).max(), np.resize([2.0, 1.5, 1.0, 0.5], len(names))
    columns = zip(s.tolist(), q.tolist(), t.tolist(), c.tolist(), strict=True)
    features = {name: dict(zip("sqtc", row, strict=True)) for name, row in zip(names, columns, strict=True)}
    nouns = {e.word: 1.0 if e.meta["gender"] == "male" else -1.0 for e in data if e.dataset == "definitional"}
    texts = tuple(e.prompt + max(e.stereo, e.anti, key=SIDES.__getitem__) + e.suffix for e in data)
    return Words(texts, features, nouns)


def strengths() -> dict[Site, tuple[float, float]]:
    """`graded`: what each planted head does with s and with t, in nats; heads that are not here are noise."""
    import random

    rng = random.Random(7)  # noqa: S311 - a construction, not a secret
    heads = [Site(layer, "z", head) for layer in range(LAYERS) for head in range(HEADS) if (layer + head) % 2]
    sizes = [rng.choice((-1, 1)) * (8 + 8 * i) / 64 for i in range(len(heads))]
    rng.shuffle(sizes)
    return {site: (s, rng.randint(-32, 32) / 64) for site, s in zip(heads, sizes, strict=True)}


def tokenizer(known: Words) -> Any:
    """One token a word after GPT-2's own pre-tokenizer, so that " he" is the token "Ġhe"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split, end, unknown = pre_tokenizers.ByteLevel(add_prefix_space=False), "<|endoftext|>", "<unk>"
    pieces = [word for text in [*known.texts, *SIDES] for word, _ in split.pre_tokenize_str(text)]
    ids = {word: i for i, word in enumerate(dict.fromkeys([end, unknown, *pieces]))}
    raw = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    raw.pre_tokenizer, raw.decoder = split, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, pad_token=end, unk_token=unknown)


def _directions(width: int) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """Per feature, the row that writes it and the row that reads it: READ · WRITE = 1, and 0 for any other
    feature, noise and the mean.
    """
    import torch

    rows = torch.ones(1, 1)
    while len(rows) < HALF:
        rows = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), rows)
    write = {
        f: torch.cat([torch.zeros(width - HALF), row]) for f, row in zip(FEATURES, rows[1:], strict=False)
    }
    return write, {f: row / HALF for f, row in write.items()}


class Builder:
    """A GPT-2 of noise, into which `head` and `mlp` plant."""

    def __init__(self, known: Words, seed: int, layers: int = LAYERS, heads: int = HEADS) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        self.width = heads * D_HEAD
        self.tokenizer, (self.write, self.read) = tokenizer(known), _directions(self.width)
        shape: dict[str, Any] = {"n_embd": self.width, "n_layer": layers, "n_head": heads}
        shape |= {"n_inner": WIDTH, "n_positions": 512}
        config = GPT2Config(vocab_size=len(self.tokenizer), bos_token_id=0, eos_token_id=0, **shape)
        config.update({"layer_norm_epsilon": 2.0**30, "tie_word_embeddings": False})
        self.model = GPT2LMHeadModel(config).eval().requires_grad_(False)
        rng, net, dims = torch.Generator().manual_seed(seed), self.model.transformer, slice(2, HALF)

        def noise(rows: int, columns: int, size: float) -> "Tensor":
            return size * torch.randn(rows, columns, generator=rng)

        for name, p in self.model.named_parameters():
            p.fill_(2.0**15 if "ln_" in name and name.endswith("weight") else 0.0)
        for weight, size in ((net.wte.weight, 1.0), (net.wpe.weight, 0.3), (self.model.lm_head.weight, 0.2)):
            weight[:, dims] = noise(len(weight), HALF - 2, size)
        for block in net.h:
            for into, back in ((block.attn.c_attn, block.attn.c_proj), (block.mlp.c_fc, block.mlp.c_proj)):
                into.weight[dims] = noise(HALF - 2, into.weight.shape[1], (HALF - 2) ** -0.5)
                rows = len(back.weight)
                size = 0.05 * (WIDTH * LAYERS / (rows * layers)) ** 0.5  # noise that no depth makes grow
                back.weight[:, dims] = noise(rows, HALF - 2, size)
                for f in ("gender", "pronoun"):
                    back.weight += noise(rows, 1, NOISE / rows**0.5) * self.write[f]
        for word, side in SIDES.items():
            self.model.lm_head.weight[self._id(word)] = self.read["pronoun"] + side / 2 * self.read["gender"]
        for word, values in known.occupations.items():
            self._embed(word, {**values, "occupation": 1.0})
        for word, male in known.nouns.items():
            self._embed(word, {"fact": male, "noun": 1.0})

    def _id(self, word: str) -> int:
        return int(self.tokenizer(word).input_ids[0])

    def _embed(self, word: str, values: Mapping[str, float]) -> None:
        self.model.transformer.wte.weight[self._id(f" {word}")] += sum(
            v * self.write[f] for f, v in values.items()
        )

    def head(
        self,
        site: Site,
        *moves: tuple[str, Mapping[str, float]],
        key: str = "occupation",
        unless: str | None = None,
    ) -> None:
        """Plant a head that attends to the word that has the feature `key` (where `unless` is written at the
        query: to the others) and moves features: each is read there and written here, as {feature: factor}.
        """
        attn, at = self.model.transformer.h[site.layer].attn, (site.head or 0) * D_HEAD
        attn.c_attn.weight.view(self.width, 3, self.width)[:, :, at : at + D_HEAD] = 0
        attn.c_proj.weight[at : at + D_HEAD] = 0
        # a score of 16 · 16 / √16 = 64
        attn.c_attn.bias[at], attn.c_attn.weight[:, self.width + at] = 16.0, 16.0 * self.read[key]
        if unless is not None:
            attn.c_attn.weight[:, at] = -64.0 * self.read[unless]
        for j, (feature, writes) in enumerate(moves):
            attn.c_attn.weight[:, 2 * self.width + at + j] = self.read[feature]
            attn.c_proj.weight[at + j] = sum(v * self.write[f] for f, v in writes.items())

    def mlp(self, site: Site, constant: float, *knots: tuple[float, float]) -> None:
        """Plant an MLP: gender += constant + Σ slope · relu(slot − knot), exact unless near a knot."""
        mlp = self.model.transformer.h[site.layer].mlp
        for p in mlp.parameters():
            p.zero_()
        for j, (knot, slope) in enumerate(knots):
            mlp.c_fc.weight[:, j], mlp.c_fc.bias[j] = SHARP * self.read["slot"], -SHARP * knot
            mlp.c_proj.weight[j] = slope / SHARP * self.write["gender"]
        mlp.c_proj.bias.copy_(constant * self.write["gender"])


def parsed(text: str) -> tuple[str, float]:
    """Kind and strength of "single" or "single@0.5". UsageError for an unknown kind, or no strength."""
    kind, _, factor = text.partition(STRENGTH)
    if kind not in KINDS:
        known = ", ".join(f"planted:{k}" for k in KINDS)
        raise UsageError(f"no planted model '{kind}'; choose from: {known}")
    try:
        strength = float(factor) if STRENGTH in text else 1.0
    except ValueError:
        strength = float("nan")
    if not 0 <= strength <= STRONGEST:
        raise UsageError(
            f"planted:{text} has no strength from 0 to {STRONGEST:g} after the @; write planted:{kind}@0.5"
        )
    return kind, strength


def build(kind: str, known: Words | None = None, *, seed: int = 0) -> "tuple[torch.nn.Module, Any]":
    """The model of a kind and its tokenizer; `seed` is the noise's. UsageError for an unknown kind.

    After an @ stands a factor on all that the stereotype does (not on the decoy, the base rate, facts):
    `single@0.5` is half as stereotyped.
    """
    kind, strength = parsed(kind)
    m, first, second = Builder(known or words(), seed), SITES["first"], SITES["second"]
    a = A * strength
    m.head(SITES["decoy"], ("c", {"pronoun": B}))
    m.mlp(SITES["base"], C)
    if kind == "single":
        m.head(first, ("s", {"gender": a}))
        m.head(SITES["factual"], ("fact", {"gender": A}), key="noun")
    elif kind == "redundant":  # slot = q + q, gender += A · clip(2 · slot, −1, 1)
        m.head(first, ("q", {"slot": 1}))
        m.head(second, ("q", {"slot": 1}))
        m.mlp(SITES["squash"], -a, (-0.5, 2 * a), (0.5, -2 * a))
    elif kind == "backup":
        m.head(first, ("q", {"gender": a}), ("occupation", {"done": 1}))
        m.head(second, ("q", {"gender": a}), unless="done")
    elif kind == "cancelling":
        m.head(first, ("s", {"gender": a}))
        m.head(second, ("s", {"gender": -a}))
        m.head(SITES["mixed"], ("t", {"gender": a}))
    elif kind == "masked":  # A · q − A · sign(q) · relu(|q| − ½): the slope of q is gone, half of q is left
        m.head(first, ("q", {"gender": a, "slot": 1}))
        m.mlp(SITES["squash"], 7.5 * a, (-8.0, -a), (-0.5, a), (0.5, -a))
    else:
        for site, (s, t) in strengths().items():
            m.head(site, ("s", {"gender": strength * s}), ("t", {"gender": strength * t}))
    return m.model, m.tokenizer


def save(kind: str, folder: Path) -> None:
    """Write the model of a kind as `save_pretrained` does."""
    model, tokenizer = build(kind)
    model.save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)


def change(
    kind: str, role: str, source: str, here: Mapping[str, float], there: Mapping[str, float]
) -> float | None:
    """The hand-worked effect on `target`, nats, of replacing a role's site; None if not worked out.

    `here` and `there`: what the occupation and its counterfactual carry. Under `mean` it is up to one number,
    the same for all prompts.
    """
    if role in ("base", "decoy", "factual"):
        return -C if role == "base" and source == "zero" else 0.0
    if source == "corrupt":  # a partner stands on the other side, so its q is the opposite
        swapped = {
            "single": A * (there["s"] - here["s"]),
            "redundant": -A * here["q"],
            "backup": A * (there["q"] - here["q"]),
        }
        swapped |= {"cancelling": swapped["single"], "masked": swapped["backup"] / 2}
        return swapped.get(kind) if role == "first" else None
    known = {
        "single": {"first": -A * here["s"]},
        "redundant": {"first": 0.0, "second": 0.0},
        "backup": {"first": 0.0 if source == "zero" else -A * here["q"], "second": 0.0},
        "cancelling": {"first": -A * here["s"], "second": A * here["s"], "mixed": -A * here["t"]},
        "masked": {"first": -A * here["q"] / 2},
    }
    return known.get(kind, {}).get(role) if source in ("zero", "mean") else None
