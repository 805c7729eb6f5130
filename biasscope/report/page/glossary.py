"""The words of the field that a report uses, explained where each first stands and once more at its end."""

import re
from collections.abc import Callable, Iterable

from markupsafe import Markup, escape

TERMS = {
    "ablation": "Replacing what a part of the model computes, to see what then changes.",
    "attribution": "An estimate of what replacing a part would do, from gradients, without replacing it.",
    "AUC": "How often a probe ranks a text that has the property above one that has not: 0.5 is guessing.",
    "clean model": "The model as it is, nothing replaced.",
    "competence": "How far the model prefers words that make sense: what a remedy should leave as it is.",
    "covariate": "A number that is known of each group, such as the share of men in an occupation.",
    "group": "An occupation, term or question. Texts about one group are no independent witnesses.",
    "head": "A part of a layer that moves information between words. L26H2 is head 2 of layer 26, from 0.",
    "ICAT": "StereoSet's score: 100 for a model that prefers sense to nonsense and neither side.",
    "interval": "The range that holds the true value in 95 of 100 studies like this, with other groups.",
    "kl": "How far the probabilities of all next words move when something is replaced.",
    "layer": "One of the steps in which the model works through a text, counted from 0.",
    "LMS": "StereoSet's share of sentences in which words that make sense are likelier than others.",
    "mean ablation": "Putting the average over all texts in the place of what a part computes.",
    "MLP": "A part of a layer that works on each word by itself. L5.mlp is that of layer 5.",
    "nats": "Natural logarithms of odds: 0.69 nats are odds of 2 to 1, 2.3 nats of 10 to 1, 0 is even.",
    "nats/SD": "Nats for each standard deviation more of the covariate.",
    "odds": "How many times as likely one word is as the other.",
    "p": "How often chance alone would give a number at least as large, were there no effect.",
    "p_family": "The same p, allowing for how many sites were looked at.",
    "probe": "A simple classifier that tries to read a property from what the model computes.",
    "r": "Pearson's correlation: 0 is none, 1 a straight line.",
    "recovered": "The share of the difference between a text and its twin that one site makes up for.",
    "residual stream": "What the layers pass on to each other, word by word.",
    "ρ": "Spearman's correlation, of two rankings: 0 is none, 1 the same order.",
    "selectivity": "How much better a probe reads the property than a label that means nothing.",
    "shift": "The change of the preference that all groups have alike: a base rate, not a stereotype.",
    "shuffled labels": "The same probe on labels dealt out at random: what luck reaches.",
    "significant": "Passes a test that allows for all sites looked at, has an interval without 0, and is "
    "not the work of one group; * in tables, ○ in figures.",
    "site": "A place in the model that can be replaced: a head, an MLP, or what a layer passes on.",
    "slope": "How much the preference changes when the covariate grows by one standard deviation.",
    "specificity": "The share of a site's effect that is on the bias and not on sense or facts.",
    "SS": "StereoSet's share of sentences in which the stereotype is likelier; 50 is even.",
    "target": "The preference for the first side over the second: the difference of their log probabilities.",
    "twin": "The same text with the group exchanged for another, such as a nurse for an engineer.",
    "zero ablation": "Putting 0 in the place of what a part computes.",
}
"""Term → its meaning. A plural with s is the same term."""
_NAMES = "|".join(map(re.escape, sorted(TERMS, key=len, reverse=True)))
_ALL = re.compile(rf"“[^”]*”|(?<![\w/.-])({_NAMES})(s?)(?![\w/-]|\.\w)")
"""A term, or something quoted, in which no word is ours."""


def anchor(term: str) -> str:
    """The end of a link to the term in the glossary."""
    return "term-" + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c)}-" for c in term)


def used(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The terms that stand in these texts with their meanings, by the alphabet."""
    found = {match[1] for text in texts for match in _ALL.finditer(text) if match[1]}
    return [(term, TERMS[term]) for term in sorted(found, key=str.casefold)]


class Explained:
    """A filter of one page's texts: at its first place each term carries its meaning and a link to it."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self.clean, self.seen = clean, set[str]()

    def __call__(self, text: str) -> Markup:
        """The text, made harmless, with its new terms as definitions."""
        return Markup(_ALL.sub(self._defined, str(escape(self.clean(text)))))  # noqa: S704  escaped just before

    def _defined(self, match: re.Match[str]) -> str:
        term = match[1]
        if term is None or term in self.seen:
            return match[0]
        self.seen.add(term)
        title = escape(TERMS[term])
        return f'<dfn title="{title}"><a href="#{anchor(term)}">{match[0]}</a></dfn>'
