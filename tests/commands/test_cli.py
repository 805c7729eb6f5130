"""The command on a tiny saved model: streams, files, exit codes, and how fast it answers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from biasscope import cli, options
from biasscope.engine.model import weights
from biasscope.engine.schemas import EFFECTS, SUMMARY
from biasscope.engine.store import files
from biasscope.engine.store.journal import Journal
from tests.support.cli import SMALL, biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

HEAVY = (
    "torch",
    "transformers",
    "transformer_lens",
    "polars",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "sklearn",
    "huggingface_hub",
)
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own, so that nothing is reused from another."""
    monkeypatch.setenv("BIASSCOPE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def process(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """A finished call in a process of its own, with pipes for all streams."""
    command = [sys.executable, "-m", "biasscope", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | NO_NETWORK, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def ablation(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, str]:
    """The JSON, the output folder and stderr of `ablate` on the tiny model."""
    folder = tmp_path_factory.mktemp("results")
    _, out, err = biasscope("ablate", "--model", tiny_gpt2, *SMALL, "-o", folder, "--seed", 3)
    return json.loads(out, parse_constant=pytest.fail), folder, err


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that may not be looked for."""
    monkeypatch.setattr(weights, "locate", lambda *a, **k: pytest.fail("the model was loaded first"))


# What a measurement leaves behind


def test_stdout_is_one_strict_json_document_with_run_and_summary(ablation):
    document, _, _ = ablation
    assert list(document) == ["schema_version", "run", "summary", "reliability", "warnings"]
    assert set(document["summary"][0]) == set(SUMMARY.names())
    assert document["summary"][0]["statistic"] == "slope" and document["summary"][0]["metric"] == "target"


def test_the_summary_has_every_head_and_mlp_by_slope_shift_and_kl(ablation):
    rows = [r for r in ablation[0]["summary"] if (r["metric"], r["statistic"]) == ("target", "slope")]
    assert len(rows) == 4 * 4 + 4
    assert {r["statistic"] for r in ablation[0]["summary"] if r["metric"] == "kl"} == {"mean"}


def test_the_run_says_which_model_data_and_options_it_used(ablation, tiny_gpt2):
    run = ablation[0]["run"]
    assert (run["model"]["name"], run["model"]["layers"], run["model"]["heads"]) == (str(tiny_gpt2), 4, 4)
    assert (run["seed"], run["params"]["source"], run["params"]["limit"]) == (3, "mean", 24)
    assert run["model"]["start_token"] == "<|endoftext|>" and len(run["model"]["digest"]) == 64
    assert run["versions"]["torch"] and run["peak_rss_bytes"] > 10**7


def test_found_examples_are_used_dropped_or_not_drawn(ablation):
    part = ablation[0]["run"]["datasets"][0]
    assert part["found"] == part["used"] + part["not_drawn"] + sum(part["dropped"].values()) == 720
    assert part["used"] == 24


def test_the_run_folder_holds_the_record_and_the_tables(ablation, tiny_gpt2):
    part = ablation[0]["run"]["datasets"][0]
    folder = Path(part["path"])
    assert folder.relative_to(ablation[1]).parts == (
        files.slug(str(tiny_gpt2)),
        "occupations",
        "ablate",
        part["run_key"][:8],
    )
    assert json.loads((folder / "run.json").read_text())["datasets"] == [part]
    assert pl.read_parquet(folder / "effects.parquet").schema == EFFECTS
    assert pl.read_parquet(folder / "summary.parquet").height == len(ablation[0]["summary"])


def test_effects_are_value_minus_baseline_per_example(ablation):
    effects = pl.read_parquet(Path(ablation[0]["run"]["datasets"][0]["path"]) / "effects.parquet")
    assert effects.height == 24 * 20 * 3
    assert (effects["effect"] - (effects["value"] - effects["baseline"])).abs().max() == 0


def test_the_original_studys_files_agree_with_the_summary(ablation, tiny_gpt2):
    document, folder, _ = ablation
    shifts = [r for r in document["summary"] if (r["metric"], r["statistic"]) == ("target", "mean")]
    heads = json.loads((folder / tiny_gpt2.name / "head_ablations_occupations.json").read_text())
    assert heads == {f"{r['layer']}_{r['head']}": r["estimate"] for r in shifts if r["head"] is not None}
    assert set(json.loads((folder / tiny_gpt2.name / "mlp_ablations_occupations.json").read_text())) == {
        "0",
        "1",
        "2",
        "3",
    }


def test_the_reproduction_command_gives_the_same_numbers_and_folder(ablation, tmp_path):
    document, folder, _ = ablation
    arguments = document["run"]["reproduce"].split()[1:]
    again = json.loads(biasscope(*arguments)[1])
    assert again["summary"] == document["summary"]
    assert again["run"]["datasets"][0]["path"] == document["run"]["datasets"][0]["path"]
    assert str(folder) in document["run"]["reproduce"]


def test_notes_go_to_stderr(ablation):
    assert "saved to" in ablation[2]


def test_baseline_with_options_from_the_environment_writes_summary_json(tiny_gpt2, tmp_path, monkeypatch):
    for name, value in {
        "MODEL": tiny_gpt2,
        "DATASET": "occupations",
        "LIMIT": 24,
        "OUTPUT_DIR": tmp_path,
        "FORMAT": "json",
    }.items():
        monkeypatch.setenv(f"BIASSCOPE_{name}", str(value))
    document = json.loads(biasscope("baseline")[1])
    gap = next(
        r
        for r in document["summary"]
        if (r["metric"], r["statistic"], r["subset"]) == ("target", "mean", "all")
    )
    assert (
        json.loads((tmp_path / tiny_gpt2.name / "summary.json").read_text())["occupations"]["baseline"]
        == gap["estimate"]
    )


def test_attribution_names_heads_mlps_and_hook_points(tiny_gpt2, tmp_path):
    biasscope(
        "patch", "--method", "attribution", "--source", "zero", "--model", tiny_gpt2, *SMALL, "-o", tmp_path
    )
    found = json.loads((tmp_path / tiny_gpt2.name / "attribution_patching_occupations.json").read_text())
    assert {
        "blocks.1.attn.hook_z",
        "blocks.1.attn.hook_z.3",
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_resid_post",
    } <= set(found)
    heads = sum(found[f"blocks.1.attn.hook_z.{h}"] for h in range(4))
    assert heads == pytest.approx(found["blocks.1.attn.hook_z"], abs=1e-9)


def test_two_datasets_are_two_parts_of_one_run(tiny_gpt2, tmp_path):
    _, out, _ = biasscope(
        "ablate", "--heads", "1.2", "--model", tiny_gpt2, *SMALL, "-d", "definitional", "-o", tmp_path
    )
    document = json.loads(out)
    assert [part["name"] for part in document["run"]["datasets"]] == ["occupations", "definitional"]
    assert {row["dataset"] for row in document["summary"]} == {"occupations", "definitional"}


def test_top_sweeps_only_what_attribution_ranks_first(tiny_gpt2, tmp_path):
    document = json.loads(
        biasscope("ablate", "--top", 3, "--by", "attribution", "--model", tiny_gpt2, *SMALL, "-o", tmp_path)[
            1
        ]
    )
    assert len({(r["component"], r["layer"], r["head"]) for r in document["summary"]}) == 3


def test_rows_are_in_the_json_only_when_asked_for(tiny_gpt2, tmp_path, ablation):
    _, out, _ = biasscope(
        "ablate", "--heads", "0.1", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, "--json", "--rows"
    )
    assert len(json.loads(out)["rows"]) == 24 * 3 and "rows" not in ablation[0]


# Errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "occupation"], "did you mean 'occupations'"),
        (["--heads", "5"], "LAYER.HEAD"),
        (["--layers", "9-3"], "3,5,7-9"),
        (["--heads", "0.1", "--layers", "0"], "not both"),
        (["--limit", "0"], "--limit"),
        (["--batch-size", "many"], "auto"),
        (["--format", "yaml"], "markdown"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_a_wrong_option_is_exit_2_before_the_model_loads(arguments, said, no_model, tmp_path):
    code, out, err = biasscope("ablate", "-o", tmp_path, *arguments, ok=False)
    assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize(("option", "value"), [("--heads", "4.0"), ("--heads", "0.4"), ("--layers", "1-4")])
def test_a_site_outside_the_model_is_exit_2_with_the_valid_range(option, value, tiny_gpt2, tmp_path):
    code, _, err = biasscope("ablate", option, value, "--model", tiny_gpt2, *SMALL, "-o", tmp_path, ok=False)
    assert code == 2 and "0-3" in err and "Traceback" not in err


def test_a_dataset_that_is_not_downloaded_is_exit_4_with_the_command_to_run(no_model, tmp_path):
    code, _, err = biasscope(
        "baseline", "--dataset", "winogender", "--data-dir", tmp_path, "-o", tmp_path, ok=False
    )
    assert code == 4 and "biasscope download winogender" in err


def test_an_output_folder_that_cannot_be_written_fails_before_the_model_loads(no_model, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = biasscope("baseline", *SMALL, "-o", tmp_path / "file" / "below", ok=False)
    assert code == 1 and "choose another --output-dir" in err


def test_a_hub_model_that_is_not_cached_is_exit_5_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, _, err = biasscope(
        "baseline", "--model", "someone/nothing", "--offline", *SMALL, "-o", tmp_path, ok=False
    )
    assert code == 5 and "--offline" in err


def test_pickled_weights_are_exit_4(tiny_gpt2, tmp_path):
    shutil.copytree(tiny_gpt2, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"\x80\x04.")
    code, _, err = biasscope("baseline", "--model", tmp_path / "pickled", *SMALL, "-o", tmp_path, ok=False)
    assert code == 4 and "safetensors" in err


def test_an_error_of_ours_has_a_traceback_only_with_debug(tmp_path):
    assert "Traceback" not in biasscope("baseline", "-d", "nothing", "-o", tmp_path, ok=False)[2]
    for arguments in (["--debug", "baseline"], ["baseline", "--debug"]):
        code, _, err = biasscope(*arguments, "-d", "nothing", "-o", tmp_path, ok=False)
        assert code == 2 and "Traceback" in err


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "locate", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        biasscope("baseline", *SMALL, "-o", tmp_path, ok=False)


def test_ctrl_c_is_exit_130_with_a_line(monkeypatch, tmp_path):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "locate", interrupted)
    code, out, err = biasscope("baseline", *SMALL, "-o", tmp_path, ok=False)
    assert (code, out) == (130, "") and "stopped: Ctrl-C" in err


def test_values_that_are_not_finite_end_in_exit_3_and_are_counted(monkeypatch, tiny_gpt2, tmp_path):
    put, spoilt = Journal.put, []

    def broken(journal: Journal, unit: str, tables: dict[str, pl.DataFrame]) -> None:
        """Store the unit, the first one of effects with one value that is NaN."""
        if "effects" in tables and not spoilt:
            spoilt.append(unit)
            nan = pl.when(pl.int_range(pl.len()) == 7).then(float("nan"))
            tables = {
                "effects": tables["effects"].with_columns(
                    nan.otherwise(name).alias(name) for name in ("value", "effect")
                )
            }
        put(journal, unit, tables)

    monkeypatch.setattr(Journal, "put", broken)
    code, out, err = biasscope(
        "ablate", "--layers", "0", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, ok=False
    )
    assert code == 3 and "1 of 360 values" in json.loads(out)["warnings"][0] and "left out" in err


def test_a_mistyped_command_is_answered_with_the_nearest():
    code, _, err = biasscope("ablat", ok=False)
    assert code == 2 and "'ablate'" in err


def test_errors_never_change_their_exit_codes():
    from biasscope.engine import errors

    classes = (
        "BiasScopeError",
        "UsageError",
        "PartialError",
        "DataError",
        "NetworkError",
        "LockedError",
        "DamagedError",
    )
    assert [getattr(errors, name).exit_code for name in classes] == [1, 2, 3, 4, 5, 11, 12]


# Help


@pytest.mark.parametrize("command", ["ablate", "baseline", "download", "patch"])
def test_every_help_has_examples_and_a_line_in_the_list(command):
    assert "Examples:" in biasscope(command, "--help")[1]
    assert command in biasscope("--help")[1]


def test_help_says_what_happens_without_dataset_and_format():
    text = " ".join(biasscope("ablate", "--help")[1].replace("│", " ").split())
    assert "else occupations)" in text and "else json)" in text


def test_every_shared_option_reads_the_environment_variable_of_its_name():
    command = cli.load("ablate")
    flags = {p.opts[0]: p.envvar for p in command.params if p.envvar}
    assert set(flags.values()) == {
        f"BIASSCOPE_{flag.removeprefix('--').replace('-', '_').upper()}" for flag in flags
    }
    assert len(flags) >= len(options.fields(options.Measure))


# Real processes


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ablate", "--help"], ["--version"], ["ablate", "--nonsense"]]
)
def test_answers_come_fast_and_load_nothing_heavy(arguments):
    code = (
        "import sys; from biasscope import cli\n"
        f"sys.argv = ['biasscope', *{arguments!r}]\n"
        "try: cli.main()\n"
        f"except SystemExit: sys.stderr.write('LOADED ' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    after = os.times()
    assert done.stderr.rstrip().endswith("LOADED")
    # processor time, which is the wall time of an idle machine (0.4 s) and does not grow with what else runs
    # there
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0


def test_shell_completion_offers_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys, atexit; atexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(m for m in "
        f"{HEAVY!r} if m in sys.modules)))\n"
    )
    code += "from biasscope import cli; cli.main()"
    asked = {"_BIASSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "biasscope ab", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, env=os.environ | asked
    )
    assert done.stdout.split() == ["ablate"] and done.stderr.endswith("LOADED ")


@pytest.mark.slow
def test_a_pipe_that_closes_early_is_silent_and_so_is_quiet(tiny_gpt2, tmp_path):
    command = [
        sys.executable,
        "-m",
        "biasscope",
        "baseline",
        "--model",
        tiny_gpt2,
        *SMALL,
        "-o",
        tmp_path,
        "-q",
        "--format",
        "jsonl",
        "--rows",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | NO_NETWORK
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b"" and running.wait() == 0


@pytest.mark.slow
def test_a_piped_run_writes_no_escape_byte_and_nothing_but_json_to_stdout(tiny_gpt2, tmp_path):
    done = process("ablate", "--heads", "0.1", "--model", tiny_gpt2, *SMALL, "-o", tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)
    assert not {b"\x1b"[0], b"\r"[0]} & set(done.stdout + done.stderr)


@pytest.mark.slow
def test_sigterm_is_exit_143_and_leaves_no_finished_run(tiny_gpt2, tmp_path):
    command = [
        sys.executable,
        "-m",
        "biasscope",
        "ablate",
        "--model",
        tiny_gpt2,
        "-d",
        "occupations",
        "-o",
        tmp_path,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | NO_NETWORK
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()  # the note that the model is being loaded
        running.send_signal(signal.SIGTERM)
        err = running.stderr.read()
    assert running.returncode == 143 and b"SIGTERM" in err and b"Traceback" not in err
    assert not list(tmp_path.rglob("run.json"))


def test_pairs_shows_every_prompt_with_its_twin_or_the_reason_and_writes_the_study_s_files(
    tiny_gpt2, tmp_path
):
    _, out, err = biasscope(
        "pairs", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, "--acdc", tmp_path / "acdc", "--json"
    )
    rows = json.loads(out)
    assert len(rows) == 24 and all(
        (row["twin"] is None) == (not row["kept"]) == (row["reason"] is not None) for row in rows
    )
    kept = [row for row in rows if row["kept"]]
    assert f"{len(kept)} of 24 examples have a twin" in err
    assert [
        pair["pair_id"] for pair in json.loads((tmp_path / "acdc/occupations_acdc_pairs.json").read_text())
    ] == [r["example_id"] for r in kept]


def test_no_twin_at_all_is_bad_input_with_the_counts(tiny_gpt2, tmp_path):
    code, _, err = biasscope(
        "pairs", "--model", tiny_gpt2, "--dataset", "definitional", "-o", tmp_path, ok=False
    )
    assert code == 4 and "no counterpart is defined for its term" in err


def test_a_token_of_the_hub_stands_in_no_file_and_no_message(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary0123456789")
    _, out, err = biasscope("baseline", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, "--json", "-v")
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert "canary" not in out + err and b"canary" not in files and len(files) > 1000


def test_exact_patching_covers_every_kind_of_site_and_leaves_the_study_s_estimates_alone(tiny_gpt2, tmp_path):
    biasscope("patch", "--source", "mean", "--model", tiny_gpt2, *SMALL, "-o", tmp_path)
    file = tmp_path / tiny_gpt2.name / "attribution_patching_occupations.json"
    estimates = file.read_bytes()
    rows = json.loads(
        biasscope("patch", "--method", "exact", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, "--json")[1]
    )["summary"]
    assert {row["component"] for row in rows} == {
        "z",
        "attn_out",
        "mlp_out",
        "resid_pre",
        "resid_post",
        "total",
    }
    assert {row["method"] for row in rows} == {"exact"} and file.read_bytes() == estimates


# Counterfactual twins


def test_patch_takes_the_twin_by_default_and_gives_effect_total_and_recovered(tiny_gpt2, tmp_path):
    arguments = (
        "patch",
        "--method",
        "exact",
        "--components",
        "resid_post,mlp_out",
        "--model",
        tiny_gpt2,
        *SMALL,
        "-o",
        tmp_path,
        "--json",
    )
    document = json.loads(biasscope(*arguments)[1], parse_constant=pytest.fail)
    (part,) = document["run"]["datasets"]
    assert part["found"] == part["used"] + part["not_drawn"] + sum(part["dropped"].values())
    rows = {(r["component"], r["layer"], r["statistic"]): r for r in document["summary"]}
    total = rows["total", None, "slope"]
    assert (
        rows["resid_post", 0, "slope"]["estimate"] == pytest.approx(total["estimate"], abs=1e-4)
        and total["n"] == part["used"]
    )
    assert {r["source"] for r in document["summary"]} == {"corrupt"} and ("total", None, "mean") not in rows
    pairs = pl.read_parquet(Path(part["path"]) / "twins.parquet")
    assert pairs.height == part["used"] and pairs.filter(pl.col("clean") == pl.col("twin")).is_empty()
    again = json.loads(biasscope(*arguments)[1])
    assert (again["summary"], again["reliability"]) == (document["summary"], document["reliability"])


def test_the_study_s_estimates_are_the_mean_under_twins_of_the_run_named_beside_them(tiny_gpt2, tmp_path):
    """SUMMARY has the slope alone there; an earlier run's file, of another source, must not stay."""
    base = ("patch", "--components", "z,mlp_out", "--model", tiny_gpt2, *SMALL[:2], "-o", tmp_path, "--json")
    biasscope(*base, "--source", "mean", "--limit", 3)
    document = json.loads(biasscope(*base, "--limit", 24)[1])
    (part,), folder = document["run"]["datasets"], tmp_path / tiny_gpt2.name
    assert "mean" not in {row["statistic"] for row in document["summary"] if row["metric"] == "target"}
    found = json.loads((folder / "attribution_patching_occupations.json").read_text())
    rows = pl.read_parquet(f"{part['path']}/effects.parquet").filter(metric="target", component="z", layer=1)
    assert found["blocks.1.attn.hook_z.2"] == pytest.approx(rows.filter(head=2)["effect"].mean(), abs=1e-12)
    assert found["blocks.1.attn.hook_z"] == pytest.approx(
        rows.filter(pl.col("head").is_null())["effect"].mean(), abs=1e-12
    )
    assert len(found) == 4 * (1 + 4 + 1) and all(isinstance(value, float) for value in found.values())
    origin = json.loads((folder / "origins.json").read_text())[
        "occupations/attribution_patching_occupations.json"
    ]
    assert origin == {
        "run": part["run_key"],
        "command": "patch",
        "method": "attribution",
        "source": "corrupt",
    }


def test_patch_by_position_gives_the_map_from_the_term_to_the_readout(tiny_gpt2, tmp_path):
    where = ("--components", "resid_post", "--positions", "readout,term,between")
    base = ("patch", "--method", "exact", *where, "--model", tiny_gpt2, *SMALL, "-o", tmp_path)
    _, out, _ = biasscope(*base, "--format", "table")
    (header,) = [line for line in out.splitlines() if line.split() == ["layer", "term", "between", "readout"]]
    body = out[out.index(header) :].splitlines()[2:6]
    assert [line.split()[0] for line in body] == ["0", "1", "2", "3"]
    rows = json.loads(biasscope(*base, "--json")[1])["summary"]
    assert {r["position"] for r in rows if r["component"] == "resid_post"} == {"term", "between", "readout"}


def test_denoising_calls_its_source_clean_and_turns_the_total_round(tiny_gpt2, tmp_path):
    base = ("patch", "--components", "mlp_out", "--model", tiny_gpt2, *SMALL, "-o", tmp_path, "--json")
    totals = {}
    for direction in ("noising", "denoising"):
        rows = json.loads(biasscope(*base, "--direction", direction)[1])["summary"]
        (row,) = [r for r in rows if r["component"] == "total" and r["statistic"] == "slope"]
        totals[row["source"]] = row["estimate"]
    assert totals["clean"] == pytest.approx(-totals["corrupt"]) and set(totals) == {"clean", "corrupt"}


def test_a_calibration_measures_some_sites_exactly_and_says_how_far_the_estimates_agree(tiny_gpt2, tmp_path):
    base = (
        "patch",
        "--components",
        "z",
        "--calibrate",
        3,
        "--model",
        tiny_gpt2,
        *SMALL,
        "-o",
        tmp_path,
        "--json",
    )
    document = json.loads(biasscope(*base)[1], parse_constant=pytest.fail)
    exact = [
        r
        for r in document["summary"]
        if r["method"] == "exact" and r["statistic"] == "slope" and r["component"] == "z"
    ]
    assert len(exact) == 6 and all(r["p_family"] is None for r in exact)
    said = {r["quantity"]: r for r in document["reliability"] if r["quantity"].startswith("calibration")}
    assert (
        said["calibration_exceed"]["estimate"] == pytest.approx(1 - 0.05 ** (1 / 3))
        and said["calibration_sign"]["n"] == 3
    )
    by_hand = json.loads(biasscope("patch", "--method", "exact", *base[1:3], *base[5:])[1])["summary"]
    known = {(r["layer"], r["head"]): r["estimate"] for r in by_hand if r["statistic"] == "slope"}
    assert {(r["layer"], r["head"]): r["estimate"] for r in exact} == pytest.approx(
        {k: known[k] for k in known if k in {(r["layer"], r["head"]) for r in exact}}, abs=1e-5
    )


def test_all_sources_side_by_side_say_how_far_they_agree(tiny_gpt2, tmp_path):
    document = json.loads(
        biasscope(
            "ablate",
            "--source",
            "all",
            "--layers",
            "0-1",
            "--model",
            tiny_gpt2,
            *SMALL,
            "-o",
            tmp_path,
            "--json",
        )[1]
    )
    assert {r["source"] for r in document["summary"]} == {"mean", "zero", "resample"}
    said = {
        (r["source"], r["against"], r["statistic"], r["component"])
        for r in document["reliability"]
        if r["quantity"] == "agreement_spearman"
    }
    pairs = {("mean", "zero"), ("mean", "resample"), ("resample", "zero")}
    assert said == {(*pair, s, c) for pair in pairs for s in ("slope", "mean") for c in ("z", "mlp_out")}
    alone = json.loads(
        biasscope(
            "ablate",
            "--source",
            "zero",
            "--layers",
            "0-1",
            "--model",
            tiny_gpt2,
            *SMALL,
            "-o",
            tmp_path,
            "--json",
        )[1]
    )["summary"]
    # p_family and what goes with it are over all sources together
    shared = {"p_family", "q", "carried_by"}
    together = [r for r in document["summary"] if r["source"] == "zero"]
    # the last bits of a product of matrices decide whether a draw that ties is beyond: one draw, more or less
    assert [r["p"] for r in together] == pytest.approx([r["p"] for r in alone], abs=0.02)
    for row, own in zip(together, alone, strict=True):
        for name in own.keys() - shared - {"p"}:
            near = pytest.approx(own[name], rel=1e-6, abs=1e-9) if isinstance(own[name], float) else own[name]
            assert row[name] == near


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--direction", "denoising", "--source", "mean"), "--source corrupt"),
        (("--steps", "3", "--source", "zero"), "--source corrupt"),
        (("--method", "exact", "--calibrate", "3"), "--method attribution"),
        (("--positions", "term,end"), "'end' is not one of all, term, between, readout"),
        (("--components", "heads"), "'heads' is not one of z,"),
        (("--layers", "9"), "it has layers 0-3"),
    ],
)
def test_what_cannot_be_patched_is_a_usage_error(tiny_gpt2, tmp_path, arguments, message):
    code, _, err = biasscope("patch", *arguments, "--model", tiny_gpt2, *SMALL, "-o", tmp_path, ok=False)
    assert code == 2 and message in " ".join(err.replace("│", " ").split())


def test_a_dataset_without_twins_is_bad_input_with_the_reasons_counted(tiny_gpt2, tmp_path):
    lonely = ("patch", "--model", tiny_gpt2, "--dataset", "definitional", "--limit", 4, "-o", tmp_path)
    code, out, err = biasscope(*lonely, ok=False)
    assert (
        (code, out) == (4, "")
        and "4 of 4 have no counterfactual twin: 4 × no counterpart" in err
        and "--source mean" in err
    )


def test_help_groups_commands_by_use_with_an_example_each():
    _, out, _ = biasscope("--help")
    text = " ".join(out.replace("│", " ").split())
    places = [text.index(f"─ {panel} ") for panel in cli.PANELS]
    assert places == sorted(places)
    for name in ("patch", "probe", "verify", "runs"):
        example = cli.stub(name).help.split("Example: ")[1]
        assert example.startswith(f"biasscope {name}") and example in text


def test_version_is_one_line_and_with_v_what_a_bug_report_needs():
    assert biasscope("--version")[1] == "biasscope 0.1.0\n"
    lines = dict(line.split(" ", 1) for line in biasscope("--version", "-v")[1].splitlines())
    assert {"biasscope", "python", "torch", "transformer_lens", "system"} <= set(lines) and "+" not in lines[
        "python"
    ]
