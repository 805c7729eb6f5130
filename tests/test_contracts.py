"""What every data set, source and command keeps, whichever there are: a new one is tested by being there."""

import importlib
import json
import shlex
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import polars as pl
import pytest
import torch

from biasscope import cli
from biasscope.engine import schemas, types
from biasscope.engine.data import counterfactuals, datasets, download
from biasscope.engine.errors import DataError
from biasscope.engine.measure import exact, sources
from biasscope.engine.model import forward, metrics, tokens
from biasscope.engine.model.packing import MASS
from biasscope.engine.types import Site
from biasscope.report.page import runs as kinds
from biasscope.report.page import verdict
from tests.golden import steps
from tests.support import stored
from tests.support.examples import paired

pytestmark = pytest.mark.usefixtures("few_draws")

KEPT = "--device cpu --cache-dir cache -o results"
SMALL = f"-m tiny-gpt2 -d occupations --limit 24 {KEPT}"
BIASED = SMALL.replace("tiny-gpt2", "planted:single")
"""A circuit needs something to share out."""
COMMANDS = {
    "ablate": f"ablate {BIASED} --source all --layers 1",
    "ask": "ask 'The nurse said that' he she -m planted:single --device cpu --cache-dir cache",
    "baseline": f"baseline {SMALL}",
    "cache": "cache ls --cache-dir cache",
    "check": "check occupations",
    "circuit": f"circuit --from {{ablate}} --sizes 1,2 {KEPT}",
    "compare": "compare {ablate} {patch} -o results",
    "datasets": "datasets ls",
    "download": f"download {' '.join(download.names())} --from {{data}} --data-dir data",
    "encode": f"encode {SMALL}",
    "env": "env",
    "mitigate": f"mitigate --from {{ablate}} --kind mean --sizes 2 --doses 1 --random 5 --tokens 100 {KEPT}",
    "example-prompts": "example-prompts",
    "models": "models ls",
    "pairs": f"pairs {SMALL}",
    "patch": f"patch {BIASED} --components z,mlp_out",
    "probe": f"probe {SMALL} --split holdout --site z",
    "report": "report {ablate} {patch} -o results",
    "runs": "runs ls -o results",
    "verify": "verify --limit 60",
}
"""Command → a short call; {name} is the run that the call of that name saves."""
MEASURING = ("baseline", "ablate", "patch", "probe", "encode", "circuit", "mitigate")
PRINTING = [name for name in COMMANDS if name not in ("download", "verify", "example-prompts")]
"""The others are tested where they are at home: `download` and `example-prompts` print no table, `verify`
takes as long as all of these.
"""


class Home:
    """A folder with tiny models, where each call is made once and what it saved is known."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.call = steps.prepare(folder), steps.inside(folder)
        self.saved: dict[str, str] = {}

    def out(self, words: str) -> str:
        """What a call prints."""
        code, out, err = self.call(shlex.split(words))
        assert code == 0, err
        return out

    def document(self, words: str) -> Any:
        """What a call prints as strict JSON."""
        return json.loads(self.out(f"{words} --json"), parse_constant=pytest.fail)

    def words(self, name: str) -> str:
        """The call of a command, the runs that it names made before."""
        for other in MEASURING:
            if f"{{{other}}}" in COMMANDS[name] and other not in self.saved:
                self.part(other)
        return COMMANDS[name].format_map(self.saved)

    def part(self, name: str, words: str | None = None) -> dict[str, Any]:
        """The dataset of the run that a measuring command saves."""
        (part,) = self.document(words or self.words(name))["run"]["datasets"]
        self.saved.setdefault(name, part["path"])
        return part


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("contracts") / "home")


@pytest.fixture(scope="module")
def data(home: Home) -> Path:
    """The folder with every downloadable data set, as the command leaves it."""
    found = steps.real_data()
    if found is not None and not (home.folder / "data").is_dir():
        home.out(COMMANDS["download"].format(data=shlex.quote(str(found))))
    return home.folder / "data"


# Data sets


@pytest.fixture(params=datasets.names())
def dataset(request: pytest.FixtureRequest, data: Path) -> Any:
    """Each data set, whole."""
    return loaded(request.param, data)


def loaded(name: str, data: Path) -> Any:
    """A data set that ships with the package or is among the real data."""
    try:
        return datasets.load(name, data)
    except DataError as error:
        if "does not exist" not in str(error):
            raise
        pytest.skip(f"{error}; set BIASSCOPE_TEST_DATA to the folder of the real data")


def test_found_is_used_and_dropped_and_no_two_examples_have_one_id(dataset: Any) -> None:
    assert dataset.found == len(dataset.examples) + dataset.dropped.total() > 0
    assert not [name for name, count in Counter(e.id for e in dataset.examples).items() if count > 1]


def test_prompt_continuation_and_suffix_are_the_data_s_own_sentences(dataset: Any) -> None:
    """But for the case of the first letter of a filler: some of StereoSet's sentences have their own."""
    for e in dataset.examples:
        if e.sentences and not e.flaw:
            built = [f"{prompt}{text}{e.suffix}".casefold() for prompt, text in e.sides]
            assert built == [sentence.casefold() for sentence in e.sentences], e.id


def test_an_example_names_its_group_and_has_two_sides_that_differ_or_a_flaw(dataset: Any) -> None:
    for e in dataset.examples:
        assert e.group and e.bias_type
        assert e.flaw or (e.stereo and e.anti and e.sides[0] != e.sides[1]), e.id
        assert e.flaw or (e.anti_prompt is None) or (e.stereo, e.unrelated) == (e.anti, None), e.id


def test_examples_that_stand_together_are_balanced_and_a_covariate_is_of_the_groups(dataset: Any) -> None:
    groups = {e.group for e in dataset.examples}
    assert all(set(covariate.values) == groups for covariate in dataset.covariates)
    sizes = Counter(e.together for e in dataset.examples if e.together)
    assert all(n % 2 == 0 for n in sizes.values())


def test_every_verdict_on_it_is_a_sentence_in_words_of_its_own(dataset: Any) -> None:
    """Each case, as a slope where it has a covariate, else as a mean; a stereotype only where it says so."""
    first, *_ = dataset.covariates or [None]
    words = {"noun": dataset.noun, "sides": dataset.sides, "bias": dataset.bias}
    words |= {"covariate": (first.name, first.unit) if first else None, "compares": dataset.compares}
    part = stored.part(dataset.name, **words, per_token=any(e.per_token for e in dataset.examples))
    row = dict.fromkeys(("p", "p_family", "carried_by", "caution", "ci_low", "ci_high"))
    row |= {"estimate": 0.7, "statistic": "slope" if first else "mean", "unit": "nats", "n": 9, "clusters": 9}
    found = {"ci_low": 0.5, "ci_high": 0.9, "p_family": 1e-4}
    rows = [found, {"estimate": -0.7, "ci_low": -0.9, "ci_high": -0.5, "p_family": 1e-4}, {}]
    rows += [found | {"carried_by": "x"}, found | {"ci_low": -0.1}, {"ci_low": -0.1, "ci_high": 0.9}]
    judged = [verdict.Verdict(row | each, part) for each in rows]
    assert len({each.case for each in judged}) == len(judged) == len(verdict.Case)
    for each in judged:
        assert not set("{}") & set(each.sentence) and each.title[0].isupper() and each.title.endswith(".")
        assert "2.0 times" in each.strength and ("stereotype" in each.title) is bool(dataset.bias)


@pytest.mark.parametrize("name", datasets.names())
def test_every_example_has_a_twin_or_a_reason(home: Home, data: Path, name: str) -> None:
    dataset = loaded(name, data)
    candidates = map(counterfactuals.RULES[dataset.rule].make(dataset, 0, len), dataset.examples)
    assert any(isinstance(twins, tuple) for twins in candidates)
    words = f"pairs -m tiny-gpt2 -d {name} --limit 60 --data-dir data {KEPT} --json"
    code, out, err = home.call(shlex.split(words))
    if code == 4:
        assert "no example has a twin: 60 × the two questions differ in length" in err
        return
    assert code == 0, err
    rows = json.loads(out, parse_constant=pytest.fail)
    assert len({row["example_id"] for row in rows}) == len(rows) >= 48
    assert all((row["twin"] is None) == bool(row["reason"]) == (not row["kept"]) for row in rows)
    assert all(row["twin"] != row["clean"] for row in rows)


# Commands


def test_every_command_has_a_call_here(home: Home) -> None:
    assert set(COMMANDS) == set(cli.Folder().commands)


@pytest.mark.parametrize("name", PRINTING)
def test_json_is_strict_and_no_row_of_a_table_is_wider_than_80_columns(home: Home, name: str) -> None:
    words = home.words(name)
    assert home.document(words)
    rows = [line for line in home.out(f"{words} --format table").splitlines() if line.startswith(" ")]
    assert rows and max(map(len, rows)) <= 80
    assert name == "pairs" or not [line for line in rows if "…" in line]  # no cell is cut but a prompt


@pytest.mark.parametrize("name", MEASURING)
def test_a_summary_says_of_every_number_what_it_is_of(home: Home, name: str) -> None:
    rows = home.document(home.words(name))["summary"]
    assert name == "encode" or rows
    assert all(
        row["unit"] and row["metric"] and row["statistic"] for row in rows if row["estimate"] is not None
    )
    assert all(
        row["ci_low"] <= row["estimate"] <= row["ci_high"]
        for row in rows
        if row["ci_low"] is not None and row["estimate"]
    )


@pytest.mark.parametrize("name", MEASURING)
def test_what_has_been_measured_is_reused_with_and_without_its_results(home: Home, name: str) -> None:
    first = home.part(name)
    again = home.part(name)
    shutil.rmtree(home.folder / first["path"])
    anew = home.part(name)
    assert again["reused"] == anew["reused"] == first["units"] > 0
    assert first["tables"] == again["tables"] == anew["tables"]


@pytest.mark.parametrize("name", MEASURING)
def test_reproduce_gives_the_same_key_and_bytes_in_an_empty_cache(home: Home, name: str) -> None:
    first = home.document(home.words(name))["run"]
    program, *words = shlex.split(first["reproduce"])
    assert program == "biasscope"
    again = home.part(name, f"{shlex.join(words)} --no-cache")
    assert (again["run_key"], again["tables"]) == (
        first["datasets"][0]["run_key"],
        first["datasets"][0]["tables"],
    )
    assert again["reused"] == 0


# Sources


def choices(command: str, option: str) -> tuple[str, ...]:
    """The words that an option of a command takes."""
    measured = getattr(importlib.import_module(f"biasscope.engine.experiments.{command}"), command)
    return get_args(get_type_hints(measured)[option])


CASES = [f"ablate --layers 1 --source {name}" for name in choices("ablate", "source") if name != "all"]
CASES += [
    f"patch --components z,mlp_out --method {method} --source {name}"
    for method in choices("patch", "method")
    for name in choices("patch", "source")
    if method != "edges"
]
CASES += [f"patch --method edges --calibrate 2 --source {name}" for name in choices("patch", "source")]


@pytest.mark.parametrize("words", CASES)
def test_the_size_of_a_pass_changes_no_effect(home: Home, words: str) -> None:
    command, *rest = words.split()
    effects = [
        pl.read_parquet(home.folder / part["path"] / f"{'exact' if 'edges' in words else 'effects'}.parquet")
        for part in (
            home.part(words, f"{command} {SMALL} {' '.join(rest)} {size}") for size in ("", "--batch-size 40")
        )
    ]
    key = [name for name, kind in effects[0].schema.items() if not kind.is_float()]
    one, other = (frame.sort(key) for frame in effects)
    assert one.select(key).equals(other.select(key))
    assert (one["effect"] - other["effect"]).abs().max() < 1e-4


@pytest.mark.parametrize("name", MEASURING)
def test_every_option_makes_another_kind_of_measurement_or_a_larger_one(name: str) -> None:
    measured = getattr(importlib.import_module(f"biasscope.engine.experiments.{name}"), name)
    hints = get_type_hints(measured)
    own = set(hints) - {"settings", "voice", "return", "wanted"}
    own |= {f.name for f in fields(hints["wanted"])} if "wanted" in hints else set()
    assert own <= {*kinds.KIND, *kinds.SIZE} and not set(kinds.KIND) & set(kinds.SIZE)


# Metrics and sources


def test_every_metric_has_a_function_and_every_function_a_row():
    assert list(metrics.METRICS) == list(types.METRICS)


@pytest.mark.parametrize("name", types.METRICS)
def test_a_metric_keeps_a_nan_to_its_example_and_0_means_what_its_row_says(name):
    logp = torch.tensor([[[-1.0, -1.0, -1.0, -2.0, -2.0, -2.0]] * 2])
    logp[0, 1] = torch.nan
    readouts = forward.Readouts(
        logp,
        torch.ones(2, 6, dtype=torch.int64),
        torch.tensor([MASS, MASS]),
        torch.tensor([[0.0, torch.nan]]),
    )
    values = metrics.METRICS[name].fn(readouts)[0]
    assert values[0] == 0 and values[1].isnan()
    assert types.METRICS[name].unit and types.METRICS[name].zero


def test_every_source_that_a_command_offers_has_words_for_people_and_a_function(tiny, examples):
    offered = {*choices("ablate", "source"), *choices("patch", "source")} - {"all"}
    assert offered <= set(types.SOURCES) and all(
        source.noun and source.title for source in types.SOURCES.values()
    )
    lm, site = tiny("gpt2"), Site(1, "z", 2)
    forest = tokens.forest(lm, examples)
    for name in types.SOURCES:
        made = sources.source(name, lm, forest, [site])
        assert made.name == name and made.twin == types.SOURCES[name].twin


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3-narrow", "mpt"])
@pytest.mark.parametrize("name", types.SOURCES)
def test_a_source_in_a_packed_resumed_sweep_is_what_it_is_in_plain_passes(tiny, examples, name, family):
    lm = tiny(family)
    forest = paired(lm, "all")[1] if types.SOURCES[name].twin else tokens.forest(lm, examples)
    last = lm.n_layers - 1
    sites = [Site(1, "z", 1), Site(last, "mlp_out"), Site(last, "resid_pre")]
    source = sources.source(name, lm, forest, sites)
    swept = exact.sweep(lm, forest, sources.Sweep(sites, source, metrics=("target",)), batch=64)
    swept = swept.filter(pl.col("component") != schemas.TOTAL)
    plain: dict[tuple[str, str], float] = {}
    for block in forest.blocks:  # an example a pass, a sequence a row, nothing resumed
        for alone, same in zip(block.alone(), block.examples, strict=True):
            for site in sites:
                hooks = forward.overwrites([{site: source.put(alone, site)}])
                value = float(
                    metrics.METRICS["target"].fn(forward.read(alone, forward.run(lm, alone, hooks)))
                )
                plain |= {(forest.examples[i].id, str(site)): value for i in same}
    rows = swept.iter_rows(named=True)
    packed = {(r["example_id"], str(Site(r["layer"], r["component"], r["head"]))): r["value"] for r in rows}
    assert packed == pytest.approx(plain, abs=5e-4)
    assert swept["effect"].abs().max() > 1e-3
