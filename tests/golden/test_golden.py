"""The commands give what the stored record says: words, order and schemas exactly, numbers to 1e-5."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from . import agree, record, steps, trees

AGAIN = (
    "if this is meant, `python -m tests.golden --write` makes the record anew; say in the commit which "
    "numbers change and why"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Step → what it gives now."""
    folder, data = steps.prepare(tmp_path_factory.mktemp("golden") / "runs"), steps.real_data()
    steps.perform(folder, steps.inside(folder), data)
    return json.loads("\n".join(record.written(record.observed(folder, data))))


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    """Step → what it gave."""
    return json.loads(record.STORED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("step", steps.STEPS, ids=lambda step: step.name)
def test_a_command_gives_what_it_gave(
    step: steps.Step, stored: dict[str, Any], found: dict[str, Any]
) -> None:
    if step.data and steps.real_data() is None:
        pytest.skip("real data not found; set BIASSCOPE_TEST_DATA to its folder")
    unlike = list(agree.differences(stored.get(step.name, {}), found[step.name], step.close, step.name))
    assert not unlike, "\n".join([*unlike[:40], f"{len(unlike)} differences; {AGAIN}"])


def test_the_record_holds_no_other_command_and_no_path_of_a_machine(stored: dict[str, Any]) -> None:
    assert set(stored) == {step.name for step in steps.STEPS}
    assert str(Path.home()) not in record.STORED.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("stored", "found", "unlike"),
    [
        ({"floats": [1.0, 200.0]}, {"floats": [1.000009, 200.001]}, 0),
        ({"floats": [1.0, 200.0]}, {"floats": [1.00002, 200.01]}, 2),
        ([1.0, None], [1.0, 0.0], 1),
        ([3], [4], 1),
        (["L1H2"], ["L1H2", "L0H1"], 1),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 1),
        ("L1H2   −1.13 [−1.44, 2e−07]  0.0134", "L1H2   −1.13 [−1.45, 4e−07]  0.0135", 0),
        ("L1H2   −1.13 [−1.44, −0.86]  0.0134", "L1H2   −1.13 [−1.46, −0.86]  0.0134", 1),
        ("L1H2   −1.13*", "L1H2   −1.13 ", 1),
        ({"environment": "a", "key": "k"}, {"environment": "a", "key": "l"}, 1),
        ({"environment": "a", "key": "k"}, {"environment": "b", "key": "l"}, 0),
    ],
)
def test_what_is_more_than_rounding_is_a_difference(stored: Any, found: Any, unlike: int) -> None:
    assert len(list(agree.differences(stored, found, 1e-5))) == unlike


def test_a_table_with_other_columns_or_in_another_order_has_another_fingerprint() -> None:
    table = pl.DataFrame({"site": ["a", "b"], "n": [1, 2], "x": [0.5, None]})
    base = record.fingerprint(table)
    changes = [
        table.reverse(),
        table.select("n", "site", "x"),
        table.cast({"n": pl.Int32}),
        table.with_columns(x=pl.lit(0.5)),
    ]
    assert [bool(list(agree.differences(base, record.fingerprint(other), 1e-5))) for other in changes] == [
        True
    ] * 4


def test_two_folders_differ_in_what_is_not_the_clock_s_and_every_changed_column_is_named(
    tmp_path: Path,
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, day, drawn, value in (
        (one, "2026-01-02T03:04:05+00:00", "a" * 12, 0.5),
        (other, "2026-05-06T07:08:09+00:00", "b" * 12, 0.25),
    ):
        (folder / "results/report_figures").mkdir(parents=True)
        (folder / "results/run.json").write_text(
            f'{{"created": "{day}", "timing": {{"model": {value}}}, "peak_rss_bytes": 1}}'
        )
        (folder / f"results/report_figures/heads-{drawn}.svg").write_text(f'<g id="heads-{drawn}-axes">')
        pl.DataFrame({"site": ["a"], "x": [1.0]}).write_parquet(folder / "results/same.parquet")
        pl.DataFrame({"site": ["a"], "x": [value]}).write_parquet(folder / "results/other.parquet")
    (other / "results/new.json").write_text("{}")
    assert list(trees.unlike(one, other)) == [
        "results/new.json: new",
        "results/other.parquet: 1 of 1 in x (by up to 0.25)",
    ]


def test_a_cut_journal_holds_half_of_the_units_and_the_facts_before_them(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "cache/runs/k").mkdir(parents=True)
    (tmp_path / "run/run.json").write_text('{"datasets": [{"run_key": "k", "units": 4}]}')
    lines = [
        '{"unit": "a"}',
        '{"fact": "f"}',
        '{"unit": "b"}',
        '{"unit": "c"}',
        '{"unit": "d"}',
        '{"fact": "finished"}',
    ]
    (tmp_path / "cache/runs/k/journal.jsonl").write_text("\n".join(lines) + "\n")
    assert steps.cut(tmp_path, "run") == 2
    assert (tmp_path / "cache/runs/k/journal.jsonl").read_text().splitlines() == lines[:3]
