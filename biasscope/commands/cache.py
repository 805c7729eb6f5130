"""`biasscope cache`."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biasscope import options

if TYPE_CHECKING:
    from biasscope.engine.store.cache import Entry

PANEL = "Manage"
EXAMPLES = (
    "biasscope cache ls",
    "biasscope cache verify --repair",
    "biasscope cache prune --older-than 7 --dry-run",
    "biasscope cache rm 34a1f100",
)


class Action(StrEnum):
    """What to do with the cache."""

    LS = "ls"
    VERIFY = "verify"
    PRUNE = "prune"
    RM = "rm"


def cache(
    action: Annotated[Action, typer.Argument(help="ls, verify, prune, rm")],
    keys: Annotated[list[str] | None, typer.Argument(help="First characters of keys (rm)")] = None,
    repair: Annotated[
        bool, options.option("--repair", "verify: drop what is damaged, so that it is measured again")
    ] = False,
    older_than: Annotated[
        float, options.option("--older-than", "prune: days since the last change", min=0)
    ] = 30,
    everything: Annotated[bool, options.option("--all", "rm: all of it")] = False,
    yes: Annotated[bool, options.option("--yes", "prune, rm: do not ask", "-y")] = False,
    dry_run: Annotated[bool, options.option("--dry-run", "prune, rm: only say what would go")] = False,
    cache_dir: options.CacheDir = options.Measure.cache_dir,
    format: options.FormatOption = None,  # noqa: A002  the option's name
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List, verify, prune or remove what has been measured in parts and converted."""
    from biasscope.console import Screen, age, confirmed
    from biasscope.engine.errors import DamagedError, UsageError, in_bytes
    from biasscope.engine.store import cache as contents
    from biasscope.report import formats

    screen, chosen = Screen(quiet), options.Format.JSON if json else format
    if (action is Action.RM) != bool(keys or everything):
        raise UsageError("`cache rm` takes the keys of what to remove, or --all; the other actions take none")
    if action is Action.VERIFY:
        damaged = contents.damage(cache_dir, repair=repair)
        rows = [{"damaged": text} for text in damaged]
        formats.listing("damaged", rows, [[text] for text in damaged], chosen)
        if damaged and not repair:
            corrupted = f"{len(damaged)} corrupted in {cache_dir} (checksum mismatch)"
            raise DamagedError(f"{corrupted}; `biasscope cache verify --repair` drops them")
        dropped, whole = "dropped, because corrupted", f"everything in {cache_dir} matches its checksum"
        return screen.note(f"{dropped}: {len(damaged)}" if damaged else whole)
    entries = contents.entries(cache_dir)
    if action is Action.PRUNE:
        entries = contents.stale(entries, older_than)
    elif keys:
        entries = contents.chosen(entries, keys)
    size = in_bytes(sum(entry.bytes for entry in entries))
    total = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {size}"
    if action is not Action.LS and not dry_run:
        if entries and not (yes or confirmed(f"remove {total} from {cache_dir}?")):
            return screen.note("nothing removed")
        contents.sweep(cache_dir)
        for entry in entries:
            contents.drop(entry)
    rows = [_row(entry) for entry in entries]
    cells = []
    for entry, row in zip(entries, rows, strict=True):
        cells.append([row["key"][:8], *list(row.values())[1:5], in_bytes(entry.bytes), age(entry.age_days)])
    formats.listing(str(cache_dir), rows, cells, chosen)
    done = {"ls": "in all", "prune": "pruned", "rm": "removed"}[action.value]
    done += " (not done: --dry-run)" if dry_run else ""
    return screen.note(f"{total} {done}")


def _row(entry: "Entry") -> dict[str, Any]:
    """An entry as programs read it; its first fields are what people see."""
    state = "in use" if entry.locked else "finished" if entry.finished else "unfinished"
    row = {"key": entry.key, "what": entry.command or entry.kind, "model": entry.model}
    row |= {"dataset": entry.dataset, "state": state}
    counts = {"size": entry.bytes, "age": round(entry.age_days, 4), "units": entry.units}
    return {**row, **counts, "path": str(entry.path)}
