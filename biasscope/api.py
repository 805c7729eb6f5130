"""The Python API: what the commands do as functions, their results as tables, figures and pages.

`import biasscope as bs` loads nothing of this; the first name that is asked for does. An experiment here has
the run key of the command with the same options: each finds what the other has measured.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import prompts as own_prompts
from biasscope.engine.errors import UsageError
from biasscope.engine.model import loading
from biasscope.engine.schemas import RELIABILITY, SUMMARY
from biasscope.engine.settings import OUTPUT, SILENT, Dtype, Held, Loaded, Measure, Voice
from biasscope.engine.store import cache, digests, runs
from biasscope.engine.types import Dataset, Example, Site
from biasscope.notebook import Run
from biasscope.report.page import gather

if TYPE_CHECKING:
    from biasscope.engine.measure.sources import Source
    from biasscope.engine.model.tokens import Forest

Where = str | Path
DEFAULTS = Measure()
SETTINGS = tuple(f for f in fields(Measure) if f.name not in (*OUTPUT, "model", "dataset", "held", "assess"))
"""The settings that every experiment takes beside its model, data set and own options."""


class Bars(Voice):
    """Progress as tqdm draws it, in a notebook as in a terminal."""

    def track(self, units: Collection[Any], label: str) -> Iterable[Any]:
        """The units, with a bar that leaves when it is full."""
        from tqdm.auto import tqdm

        return tqdm(units, desc=label, leave=False)


def _voice(progress: bool | None) -> Voice:
    """Bars where requested, and by default in a notebook."""
    return Bars() if progress or (progress is None and "ipykernel" in sys.modules) else SILENT


def _settings(model: Any, dataset: Any, given: Mapping[str, Any]) -> Measure:
    """The settings as a command would have them, and what is in memory beside them."""
    values = dict(given)
    for name in ("data_dir", "cache_dir", "output_dir", "edit"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser()
    if "dtype" in values:
        values["dtype"] = Dtype(_option("dtype", Literal[tuple(Dtype)], values["dtype"]))
    if "batch_size" in values:
        values["batch_size"] = str(values["batch_size"])
    values["model"], lm = str(model), None
    if not isinstance(model, str | Path):
        lm = model if isinstance(model, loading.LM) else load_model(model)
        values |= {"model": lm.name, "dtype": Dtype(lm.dtype), "device": lm.device, "revision": lm.revision}
    single = isinstance(dataset, str | Path | Dataset)
    several = [] if dataset is None else [dataset] if single else list(dataset)
    known = [_checked(data) for data in several if isinstance(data, Dataset)]
    if known and len(known) < len(several):
        raise UsageError("give data sets by name or as Dataset, not both at once")
    if known and values.get("limit") is not None:
        raise UsageError("limit draws from a data set by name; for a Dataset: load_dataset(name, limit=…)")
    for data in known:
        values |= _drawn(data, values)
    names = [data.loaded.name if data.loaded else data.name for data in known] or list(map(str, several))
    return replace(DEFAULTS, **values, dataset=names or None, held=Held(lm, tuple(known)))


def _checked(data: Dataset) -> Dataset:
    """The data set; one whose examples are not what its name means is known by its content alone."""
    content = digests.of_examples(data.examples, data.covariates)
    same = data.loaded is not None and data.loaded.content == content
    return data if same else replace(data, digest=content, record={}, loaded=None)


def _drawn(data: Dataset, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which a data set was loaded, for the record. UsageError where the seed is another."""
    if data.loaded is None:
        return {}
    sampled = {"limit": len(data.examples), "seed": data.loaded.seed} if data.whole else {}
    if sampled and values.get("seed", data.loaded.seed) != data.loaded.seed:
        drawn = f"the sample of {data.name} was drawn with seed {data.loaded.seed}"
        raise UsageError(f"{drawn}, the run has {values['seed']}; give both the same")
    how = {name: getattr(data.loaded, name) for name in ("data_dir", "skip_invalid", "no_space")}
    return how | sampled


def _option(name: str, kind: Any, value: Any) -> Any:
    """An option as the command line has it: lists joined by commas. UsageError: none of a few words."""
    choices = [choice for choice in (kind, *get_args(kind)) if get_origin(choice) is Literal]
    words = [word for choice in choices for word in get_args(choice)]
    if words and value is not None and value not in words:
        raise UsageError(f"{name} '{value}' is none of: {', '.join(words)}")
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def experiment(name: str) -> Callable[..., Run]:
    """The experiment of that name as a function: its model, data sets, own and shared options, by name."""
    measured = getattr(importlib.import_module(f"biasscope.engine.experiments.{name}"), name)
    hints = get_type_hints(measured)
    parameter = inspect.Parameter
    keyword, either = parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD
    of = inspect.signature(measured).parameters.values()
    own = [p for p in of if p.kind is keyword and p.name != "voice"]
    first = [parameter("model", either, default=DEFAULTS.model), parameter("dataset", either, default=None)]
    shared = [parameter(f.name, keyword, default=f.default, annotation=f.type) for f in SETTINGS]
    progress = parameter("progress", keyword, default=None)
    signature = inspect.Signature([*first, *own, *shared, progress], return_annotation=Run)

    def run(*args: Any, **values: Any) -> Run:
        if unknown := [key for key in values if key not in signature.parameters]:
            raise TypeError(datasets.unknown(f"option of {name}", unknown[0], list(signature.parameters)))
        given = signature.bind(*args, **values).arguments
        chosen = {f.name: given[f.name] for f in SETTINGS if f.name in given}
        settings = _settings(given.get("model", DEFAULTS.model), given.get("dataset"), chosen)
        options = {p.name: _option(p.name, hints[p.name], given[p.name]) for p in own if p.name in given}
        result = measured(settings, **options, voice=_voice(given.get("progress")))
        return Run(result, settings.held)

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"""{measured.__doc__}

    As `biasscope {name}`, whose --help says what each option does: same options, same run key. `model`: a
    name, a folder, or what `load_model` gives; `dataset`: a name, several, or a `Dataset`. Silent, but for
    bars in a notebook (`progress`). Returns a `Run`.
    """
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def load(run: str, output_dir: Where = DEFAULTS.output_dir, cache_dir: Where = DEFAULTS.cache_dir) -> Run:
    """A finished run by its folder or the start of its key. UsageError: none; DamagedError: it changed."""
    stored, record = cache.load(Path(output_dir), run, Path(cache_dir))
    part = record.datasets[0].model_copy(update={"path": str(stored.folder)})
    summary, reliability = (
        pl.read_parquet(stored.folder / f"{name}.parquet") if name in part.tables else schema.to_frame()
        for name, schema in (("summary", SUMMARY), ("reliability", RELIABILITY))
    )
    shown = record.model_copy(update={"datasets": [part]})
    return Run(runs.Result(shown, [summary], [reliability], []), DEFAULTS.held)


def _names(given: Iterable[Run | str]) -> list[str]:
    """The names of runs, and the folders of those that are in memory."""
    parts = ([run] if isinstance(run, str) else [part.path for part in run.record.datasets] for run in given)
    return [name for names in parts for name in names]


def load_model(
    model: Any = DEFAULTS.model,
    tokenizer: Any = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    cache_dir: Where = DEFAULTS.cache_dir,
    offline: bool = False,
) -> loading.LM:
    """A model, checked and ready for all functions here: by name, folder, .gguf file, or from memory.

    In memory: a causal model of transformers with its tokenizer (copied; it stays as it is, on its device and
    in its dtype), or a `TransformerBridge` of TransformerLens. Its name is the one it was loaded by, its
    identity the sha256 of its parameters.
    """
    from biasscope.engine.model import exactness

    if not isinstance(model, str | Path):
        return exactness.check_packing(loading.adopt(model, tokenizer))
    with SILENT.hushed():
        where: Any = {"device": device, "dtype": str(dtype), "revision": revision, "offline": offline}
        where["cache_dir"] = Path(cache_dir).expanduser()
        return exactness.check_packing(loading.load(str(model), **where))


def load_dataset(
    name: str, *, data_dir: Where = DEFAULTS.data_dir, limit: int | None = None, seed: int = 0
) -> Dataset:
    """The data set of that name, or of a file; `limit`: a seeded sample, spread evenly. UsageError: none."""
    data = datasets.load(name, Path(data_dir), limit=limit, seed=seed)
    content = digests.of_examples(data.examples, data.covariates)
    return replace(data, loaded=Loaded(name, Path(data_dir), seed, content))


def prompts(
    table: Any, *, name: str = "prompts", skip_invalid: bool = False, no_space: bool = False
) -> Dataset:
    """Prompts of your own as a data set: a polars or pandas frame, a list of dictionaries, or a file's path.

    Columns as in a file of `--dataset`. A table in memory is called `name`. DataError names every fault.
    """
    return own_prompts.of_table(table, name, skip_invalid=skip_invalid, no_space=no_space)


def forest(
    lm: loading.LM, dataset: Dataset | Sequence[Example], *, share: Literal["all", "example"] = "all"
) -> "Forest":
    """The examples as packed prefix trees (`share="example"`: no node is shared between examples)."""
    from biasscope.engine.model import tokens

    return tokens.forest(lm, dataset.examples if isinstance(dataset, Dataset) else dataset, share=share)


def sites(
    lm: loading.LM, components: Sequence[str] = ("z", "mlp_out"), layers: Sequence[int] | None = None
) -> list[Site]:
    """The sites of those components and layers (default: all), heads one by one, or UsageError."""
    from biasscope.engine.measure import sources

    return sources.sites(lm, components, layers)


def sweep(
    lm: loading.LM,
    forest: "Forest",
    sites: Sequence[Site],
    source: "str | Source" = "mean",
    metrics: Sequence[str] = ("target", "competence", "kl"),
) -> pl.DataFrame:
    """EFFECTS of replacing each site alone, exact: one row per example, site and metric; not stored."""
    from biasscope.engine.measure import exact, sources

    replacement = sources.source(source, lm, forest, sites) if isinstance(source, str) else source
    return exact.sweep(lm, forest, sources.Sweep(sites, replacement, metrics=metrics))


class _Report(ModuleType):
    """The package `biasscope.report`, and the function of its name: `bs.report` beside `bs.ablate`."""

    def __call__(
        self,
        runs: Sequence[Run | str] | None = None,
        out: Where = "report.html",
        *,
        pdf: bool = False,
        card: bool = False,
        output_dir: Where = DEFAULTS.output_dir,
    ) -> Path:
        """The page of a report of these runs, else of all in `output_dir`, with its Markdown twin beside it.

        `pdf`: the page printed too (needs Chromium or Chrome); `card`: a card for the model's page too.
        DataError where there is no run to show, DamagedError where one is corrupted.
        """
        from biasscope.report.page import document

        shown = gather.gather(Path(output_dir), _names(runs or []), None, DEFAULTS.cache_dir)
        extras = document.Extras(pdf=pdf, card=card)
        written, _ = document.save(shown, Path(out).with_suffix(".md"), extras=extras)
        shown.check()
        return written[1]


report = importlib.import_module("biasscope.report")
report.__class__ = _Report
