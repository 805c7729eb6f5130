"""`make bench-large`: gpt2-large's real architecture (36 × 20 heads, 774 M random weights) runs attribution
on WinoGender end to end.

Asserts that it stays within 24 GiB; JSON on stdout. Needs the GPT-2 tokenizer files of the test data.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

from tests.support.real import DATA

LIMIT = 24 * 2**30


def save_model(folder: Path) -> None:
    """Writes gpt2-large with seeded random weights and the GPT-2 tokenizer, as `save_pretrained` does."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=1280, n_layer=36, n_head=20))
    model.save_pretrained(folder)
    tokenizer = transformers.GPT2TokenizerFast.from_pretrained(str(DATA / "gpt2_tokenizer"))
    if len(tokenizer) != 50257:
        raise SystemExit(
            f"the tokenizer in {DATA}/gpt2_tokenizer has {len(tokenizer)} tokens, expected 50257"
        )
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Saves the model once, then runs the command in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("results/bench"))
    work = parser.parse_args().work_dir
    folder = work / "gpt2-large-random"
    if not (folder / "tokenizer.json").is_file():
        save_model(folder)
    shared = f"--data-dir {work / 'data'}"
    run = [sys.executable, "-m", "biasscope"]
    subprocess.run(
        [*run, *f"download winogender {shared} --from {DATA} -q".split()],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    begun = time.perf_counter()
    command = (
        f"patch --method attribution --model {folder} --dataset winogender {shared} --output-dir "
        f"{work / 'results'} --format json"
    )
    done = subprocess.run([*run, *command.split()], check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - begun
    result = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    heads = sum(
        r["component"] == "z" and r["head"] is not None and r["statistic"] == "slope"
        for r in result["summary"]
    )
    report = {"seconds": seconds, "peak_gib": peak / 2**30, "heads": heads, "timing": result["run"]["timing"]}
    print(json.dumps(report, indent=2))
    if peak > LIMIT or heads != 36 * 20:
        raise SystemExit("outside the limits: at most 24 GiB, 720 heads")


if __name__ == "__main__":
    main()
