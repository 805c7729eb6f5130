"""`biasscope download`."""

from pathlib import Path
from typing import Annotated

import typer

from biasscope import options

PANEL = "Prepare"
EXAMPLES = (
    "biasscope download stereoset winogender",
    "biasscope download stereoset --from ~/Downloads   (a folder with the official dev.json)",
    "BIASSCOPE_HUB_URL=https://mirror.example biasscope download stereoset",
)


def download(
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="bbq, crows_pairs, stereoset, winobias, winogender",
            autocompletion=options.usage.downloadable,
        ),
    ],
    data_dir: options.DataDir = Path("data"),
    local: Annotated[
        Path | None,
        options.option("--from", "Take local copies from this folder", exists=True, file_okay=False),
    ] = None,
    fresh: Annotated[bool, options.option("--fresh", "Download again what is there")] = False,
    offline: options.Offline = False,
    hub_url: Annotated[str | None, options.option("--hub-url", "Mirror of the Hugging Face hub")] = None,
    raw_url: Annotated[str | None, options.option("--raw-url", "Mirror of raw.githubusercontent.com")] = None,
    cache_dir: options.CacheDir = options.Measure.cache_dir,  # unused: one set of options for all commands
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Fetch datasets at a pinned revision, check them, and record where they come from."""
    import json
    import sys

    from biasscope.console import Screen
    from biasscope.engine.data import download as engine

    screen = Screen(quiet, verbose)
    records = []
    for name in dict.fromkeys(datasets):
        with screen.hushed():
            record = engine.download(
                name,
                data_dir,
                local=local,
                fresh=fresh,
                offline=offline,
                hub_url=hub_url,
                raw_url=raw_url,
                track=screen.track,
            )
        for damage in record["damaged"]:
            screen.warn(f"mended: {damage}")
        for note in record["notes"]:
            screen.warn(f"{name}: {note}")
        screen.note(f"{name}: in {data_dir / name}" + (", nothing downloaded" if record["reused"] else ""))
        records.append(record)
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(records, allow_nan=False, indent=2) + "\n")
        sys.stdout.flush()
