"""`biasscope env`."""

from pathlib import Path
from typing import Any

from biasscope import options

PANEL = "Manage"
EXAMPLES = ("biasscope env", "biasscope env --json | jq .versions")


def env(
    output_dir: options.OutputDir = Path("results"),
    data_dir: options.DataDir = Path("data"),
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, the machine, folders and variables: what a question or a bug report needs."""
    import os
    import platform
    import shutil
    import sys

    from biasscope.engine.errors import in_bytes
    from biasscope.engine.store import runs
    from biasscope.report import formats

    def folder(path: Path) -> str:
        if not path.is_dir():
            return f"{path} (not there yet)"
        writable = "" if os.access(path, os.W_OK) else ", not writable"
        return f"{path} ({in_bytes(shutil.disk_usage(path).free)} free{writable})"

    said = ("BIASSCOPE_", "HF_", "OMP_", "CUDA_VISIBLE", "NO_COLOR", "TRANSFORMERS_")
    secret = ("TOKEN", "KEY", "SECRET", "PASSWORD")
    variables = {
        name: "(set)" if any(word in name for word in secret) else value
        for name, value in sorted(os.environ.items())
        if name.startswith(said)
    }
    facts: dict[str, Any] = {"versions": runs.versions()}
    facts["machine"] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "terminal": sys.stdout.isatty(),
        "encoding": sys.stdout.encoding,
    }
    places = {"output": output_dir, "data": data_dir, "cache": cache_dir}
    facts["folders"] = {name: folder(path) for name, path in places.items()}
    facts["variables"] = variables
    chosen = options.Format.JSON if json else format
    if formats.form(chosen) is options.Format.JSON:
        formats.write_json(facts)
        return
    rows = [
        {"about": about, "name": name, "value": str(value)}
        for about, group in facts.items()
        for name, value in group.items()
    ]
    formats.listing(
        "", rows, [list(row.values()) for row in rows], chosen, columns=["about", "name", "value"]
    )
