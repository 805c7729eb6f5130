"""What a probe is asked: inputs with a label that does not stand in them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from biasscope.engine.errors import UsageError
from biasscope.engine.probes import Items
from biasscope.engine.types import Dataset, Example

TASKS = ("stereotype", "occupation", "lean")
LEVELS = {"stereotype": "pair", "occupation": "group", "lean": "group"}
"""Where a task's labels live: the filler of an example, or an occupation; `lean` moves with the whole group."""


@dataclass(frozen=True)
class Input:
    """One text and what is asked about it."""

    id: str
    example_id: str
    group: str
    words: str
    term: str
    """The word that the text is about."""
    label: int
    kind: str
    """What the control's coin is thrown for: the filler, or the group."""


def default(dataset: Dataset) -> str:
    """`occupation` where there are labour statistics, else `stereotype`."""
    return "occupation" if dataset.share_of_men() else "stereotype"


def check(task: str, dataset: Dataset) -> None:
    """UsageError where the task's label can be read off the words of the dataset, so that any probe would be right."""
    facts = sum("gender" in e.meta for e in dataset.examples)
    if task == "stereotype" and facts:
        raise UsageError(
            f"--task stereotype is not defined for {dataset.name}: {facts} of {len(dataset.examples)} prompts state the gender as a fact,\n"
            "so that the label is the pronoun itself, or whether it fits its noun: grammar, no stereotype;\n"
            "take --task lean, or another dataset such as stereoset_gender"
        )


def inputs(task: str, dataset: Dataset, negatives: str, target: Mapping[str, float] | None = None) -> tuple[list[Input], dict[str, str]]:
    """The inputs of a task, and example id → why an example has none.

    stereotype: the prefix with its filler, 1 stereotype, 0 the anti-stereotype's filler (or the unrelated one's, by `negatives`).
    occupation: the prompt, 1 where most people in the occupation are men. lean: the prompt, 1 where the model's own `target` is above 0.
    Examples with an input that another example labels otherwise are dropped. UsageError where the dataset lacks what the task is about.
    """
    shares = dataset.share_of_men()
    if (task == "occupation") != (shares is not None) and task != "lean":
        raise UsageError(f"--task {task} is not defined for {dataset.name}; take --task {default(dataset)} or lean")
    found: list[Input] = []
    lost: dict[str, str] = {}
    for e in dataset.examples:
        other = e.anti if negatives == "anti" else e.unrelated
        if task == "stereotype" and (e.flaw or other is None):
            lost[e.id] = e.flaw or "no unrelated filler"
        elif task == "stereotype":
            found += [_filled(e, 1, e.stereo), _filled(e, 0, str(other))]
        elif task == "occupation" and shares:
            found.append(Input(e.id, e.id, e.group, e.prompt, e.word, int(shares[e.group] > 50), e.group))
        elif target is not None and np.isfinite(target.get(e.id, np.nan)):
            found.append(Input(e.id, e.id, e.group, e.prompt, e.word, int(target[e.id] > 0), e.group))
        else:
            lost[e.id] = "no target: the model cannot be said to lean"
    labels: dict[str, set[int]] = defaultdict(set)
    for i in found:
        labels[i.words].add(i.label)
    lost |= {i.example_id: "identical inputs with different labels" for i in found if len(labels[i.words]) > 1}
    return [i for i in found if i.example_id not in lost], lost


def _filled(e: Example, label: int, filler: str) -> Input:
    return Input(f"{e.id}.{'stereo' if label else 'other'}", e.id, e.group, e.prompt + filler, e.word, label, filler.strip().lower())


def items(chosen: Sequence[Input]) -> Items:
    """The inputs as numbers."""

    def numbered(values: list[str]) -> np.ndarray:
        return np.unique(values, return_inverse=True)[1]

    columns = {name: numbered([getattr(i, name) for i in chosen]) for name in ("group", "example_id", "words", "kind")}
    return Items(np.array([i.label for i in chosen]), columns["group"], columns["example_id"], columns["words"], columns["kind"])
