"""The engine's nouns and registries. No torch, no reading or writing of files."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import polars as pl

from biasscope.engine.settings import Loaded
from biasscope.engine.sites import (
    COMPONENTS,
    EDGE,
    EDIT,
    FINAL,
    HOOKS,
    INSIDE,
    MEMBER,
    NO_SITE,
    POSITIONS,
    SET,
    Edge,
    Site,
)

# nouns of `sites` that are taken from here
__all__ = ["COMPONENTS", "EDGE", "EDIT", "FINAL", "HOOKS", "INSIDE", "MEMBER", "NO_SITE", "POSITIONS"]
__all__ += ["SET", "Edge", "Site"]

Track = Callable[[list[Any], str], Iterable[Any]]
"""How progress leaves the engine: called with the units of work and a label, it yields the units."""


@dataclass(frozen=True)
class Unit:
    """A piece of a run that is measured, stored and skipped as a whole."""

    name: str
    """Unique within its run; file names begin with it."""
    compute: Callable[[], dict[str, pl.DataFrame]]
    """The unit's tables, the same whatever was measured before."""


def silent(units: list[Any], label: str) -> Iterable[Any]:
    """The units, with no progress shown: the default of every engine function."""
    return units


@dataclass(frozen=True)
class Example:
    """One prompt and the continuations whose log-probabilities are compared. Text only; tokens belong to a
    tokenizer.
    """

    id: str
    """Unique within its dataset."""
    dataset: str
    bias_type: str
    group: str
    """The cluster for intervals: StereoSet target term, WinoGender occupation, BBQ question, …"""
    prompt: str
    """The text before the readout, less one space where the continuation begins with one. May be empty."""
    stereo: str
    """The first side's continuation, with its leading space where it has one: what `Dataset.sides` names."""
    anti: str
    """The second side's continuation."""
    unrelated: str | None = None
    suffix: str = ""
    """The text after the filler. Never scored by `target`; a token that crosses into it drops the example."""
    sentences: tuple[str, ...] | None = None
    """The dataset's own whole sentences (stereotype, anti-stereotype, and unrelated where there is one): what
    `sentence` scores.
    """
    flaw: str | None = None
    """Why `target` is not defined for this example (two BLANKs); `sentence` still is."""
    meta: Mapping[str, str | float] = field(default_factory=dict)
    term: str | None = None
    """The word of the prompt that it is about, where that is not its group; "": there is none."""
    anti_prompt: str | None = None
    """The prompt of `anti` where the sides differ before a shared continuation (`stereo` = `anti`)."""
    per_token: bool = False
    """Whether `target` and `competence` are of the mean log p per token: of whole sentences only."""
    together: str = ""
    """Examples with the same text here are drawn, and dropped, as one."""
    twin: str | None = None
    """Its own counterfactual prompt, where the data give one (rule `given`)."""

    @property
    def word(self) -> str:
        """The word of the prompt that it is about: what a twin replaces and `--positions term` finds."""
        return self.group if self.term is None else self.term

    @property
    def sides(self) -> tuple[tuple[str, str], ...]:
        """Prompt and continuation of `stereo`, `anti` and, where there is one, `unrelated`."""
        both = ((self.prompt, self.stereo), (self.anti_prompt or self.prompt, self.anti))
        return both if self.unrelated is None else (*both, (self.prompt, self.unrelated))

    def exchanged(self, twin: str) -> tuple[tuple[str, str], ...]:
        """The sides with the counterfactual prompt; of two prompts each takes the other's place."""
        prompts = (twin, *[twin if self.anti_prompt is None else self.prompt] * 2)
        return tuple((new, text) for new, (_, text) in zip(prompts, self.sides, strict=False))


Compared = Literal["words", "prompts", "contrast"]
"""Two continuations of a prompt; one after two prompts; two continuations, the sides exchanged by what is
asked.
"""


@dataclass(frozen=True)
class Covariate:
    """A number per group that `target` is regressed on."""

    name: str
    """As a sentence names it: "share of men"."""
    unit: str
    """Of its values: "%"; empty where it has none."""
    values: Mapping[str, float]
    """Group → value; a group without one counts for the mean and not for the slope."""
    key: str = ""
    """What tells its correlations apart from those with another covariate: `pearson_bls`."""


@dataclass(frozen=True)
class Dataset:
    """Examples of one name, in data order, with what identifies them and what was left out."""

    name: str
    examples: tuple[Example, ...]
    digest: str
    """sha256 of the canonical JSON of the content, the same for every container it came in."""
    found: int
    """Examples read; found = len(examples) + Σ dropped + those that --limit did not draw."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason → number of examples left out while reading: faulty as published, or with --skip-invalid."""
    notes: tuple[str, ...] = ()
    """Warnings for the reader of the results: repaired labels, licence, and the like."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Source, revision and licence, as the run's record shows them."""
    whole: tuple[Example, ...] = ()
    """All examples where --limit drew some, else empty: a sample's twins are those of the whole."""
    loaded: Loaded | None = None
    """Of one that was loaded into memory by name; None else."""
    outside: frozenset[str] = frozenset()
    """Words that stand in no twin, because they belong to another part of the data."""
    covariates: tuple[Covariate, ...] = ()
    """The first ranks the sites, by its slope; target's correlation with each is given."""
    noun: str = "group"
    """What a group is: occupation, term, question, pair of words."""
    sides: tuple[str, str] = ("the stereotype", "the anti-stereotype")
    """What `stereo` and `anti` are, in a sentence: ("he", "she")."""
    bias: str = ""
    """What leaning to the first side is, as a sentence names it ("the occupational stereotype"); empty where
    the data do not say that it is a stereotype.
    """
    templates: Mapping[str, str] = field(default_factory=dict)
    """Example id → the sentence frame that it shares with examples of other groups, where there are such."""
    rule: str = "none"
    """How a counterfactual twin is made, by its name in `counterfactuals.RULES`."""

    def part(self, name: str, groups: Collection[str]) -> "Dataset":
        """The examples of some groups as data of their own: no twin of theirs names another group of the
        whole.
        """
        own = {e.word for e in self.examples if e.group in groups}
        outside = frozenset(e.word for e in self.whole or self.examples) - own
        examples = tuple(e for e in self.examples if e.group in groups)
        return replace(self, name=name, examples=examples, whole=(), outside=outside)

    @property
    def compares(self) -> Compared:
        """What a mean of target compares; words, where nothing more is known of all examples."""
        if self.examples and all(e.anti_prompt is not None for e in self.examples):
            return "prompts"
        return "contrast" if self.examples and all(e.together for e in self.examples) else "words"

    @property
    def covariate(self) -> Mapping[str, float] | None:
        """Group → the value that slopes are on; None where there is no covariate."""
        return self.covariates[0].values if self.covariates else None


@dataclass(frozen=True)
class Design:
    """The design of a run's groups: what statistics need beside its effects."""

    covariate: Mapping[str, float] | None = None
    """Group → the value that slopes are on (per cent of men); None: no slope exists."""
    partners: Mapping[str, str] = field(default_factory=dict)
    """Group → the one group it is exchanged for: two that are each other's partner are one cluster."""
    seed: int = 0
    templates: Mapping[str, str] = field(default_factory=dict)
    """Example id → the sentence frame that it shares with other groups."""


@dataclass(frozen=True)
class Split:
    """How a probe's groups are held out, and at which level its labels live."""

    kind: Literal["kfold", "holdout"] = "kfold"
    level: Literal["group", "pair"] = "group"
    seed: int = 0


@dataclass(frozen=True)
class Edit:
    """Sites that are replaced throughout a run. Baseline and value are then both of the model with the
    edit.
    """

    at: Mapping[Site, Any]
    """Site → its replacement: a `Source`, or an `Affine`, whose numbers are fixed."""
    name: str = ""
    """As tables and files call it: mean-2@1."""
    kind: str = ""
    """One of `settings.KINDS` where all of it is affine."""
    dose: float = 1.0

    def puts(self, block: Any) -> dict[Site, Any]:
        """The replacement at each site of a block of a forest."""
        return {site: source.put(block, site) for site, source in self.at.items()}


UNEDITED = Edit({})
"""The model as it is."""


@dataclass(frozen=True)
class Metric:
    """A number that is read of every example; its function stands in `model.metrics`."""

    unit: str
    zero: str
    """What 0 means."""
    bias: bool = False
    """Whether it says which way the model leans; the first such metric that is measured ranks the sites."""
    signed: bool = True
    """Whether it has two sides: otherwise it has a mean alone, and no test."""
    swept: bool = True
    """Whether an exact sweep measures it."""
    clean: bool = True
    """Whether the baseline has it."""


METRICS = {
    "target": Metric("nats", "both equally likely", bias=True),
    "sentence": Metric("nats", "both equally likely", bias=True, swept=False),
    "sentence_sum": Metric("nats", "both sentences equally likely", swept=False),
    "competence": Metric(
        "nats", "sense and nonsense equally likely (pronouns: all probability mass on them)"
    ),
    "kl": Metric("nats", "unchanged", signed=False, clean=False),
}
"""Every metric, in the order of tables."""


@dataclass(frozen=True)
class Replacement:
    """What takes the place of an activation, in words; its function stands in `measure.sources`."""

    noun: str
    """In a sentence or a legend."""
    title: str
    """Over a map."""
    twin: bool = False
    """Whether it is the other prompt's, so that a base rate common to both does not show."""


SOURCES = {
    "corrupt": Replacement("twins", "twin patched in", twin=True),
    "mean": Replacement("mean ablation", "mean ablation"),
    "resample": Replacement("resampled", "resampled"),
    "zero": Replacement("zero ablation", "zero ablation"),
    "clean": Replacement("clean run restored", "clean run restored", twin=True),
}
"""Every source; of several in one place the first is shown first, and ranks the sites of a circuit."""
