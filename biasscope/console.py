"""The only place that talks to a person: progress, notes and errors on stderr, data on stdout."""

import codecs
import errno
import io
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from biasscope.engine.settings import Voice, clock

EVERY = 5.0
"""Seconds between two lines of progress where there is no terminal."""


def safe_text(text: str) -> str:
    """The text without what could steer a terminal: control characters, ESC, bidi marks, zero-width
    characters.

    White space of any kind becomes one space each. Nothing of ours is ever parsed as rich markup, so none
    needs escaping.
    """
    return "".join(" " if c.isspace() else c for c in text if c.isprintable() or c.isspace())


PLAIN = {
    "−": "-",
    "–": "-",
    "—": "-",
    "·": ".",
    "…": "...",
    "×": "x",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "±": "+-",
    "√": "sqrt",
}
PLAIN |= {
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "°": "^",
    "†": "#",
    "≈": "=",
    "○": "o",
    "●": "*",
    "│": "|",
    "─": "-",
    "┼": "+",
    "█": "#",
}
PLAIN |= {
    "ρ": "rho",
    "α": "alpha",
    "β": "beta",
    "Δ": "delta",
    "Σ": "sum",
    "²": "^2",
    "ä": "a",
    "é": "e",
    "ö": "o",
    "ü": "u",
}
"""What stands for a character where the stream's encoding does not have it; a question mark for all
others.
"""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What to write instead of the characters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("biasscope", _plain)


def write_in_any_encoding() -> None:
    """Let stdout and stderr replace what their encoding does not have (Windows' cp1252, Latin-1, ASCII),
    instead of failing.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="biasscope")


def encodable(text: str, stream: TextIO) -> str:
    """The text as the stream will show it: what is laid out in columns must have its final length."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "biasscope").decode(encoding)


def unwritable_stdout(problem: OSError) -> int | None:
    """The exit code where it was stdout that failed, which is closed then: 0 where its reader has left, 1
    with a message where it is full.

    None where it was another file: those that we open have a name in their error, or have been told of
    already.
    """
    if problem.filename is not None or problem.errno not in (
        errno.EPIPE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
    ):
        return None
    # nothing more may be flushed into it at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if problem.errno == errno.EPIPE:
        return 0
    error(f"cannot write to stdout: {(problem.strerror or str(problem)).lower()}")
    return 1


def _stderr(text: str) -> None:
    for line in text.split("\n"):
        sys.stderr.write(safe_text(line) + "\n")
    sys.stderr.flush()


def error(text: str, label: str = "error") -> None:
    """Write what went wrong to stderr, in plain lines."""
    _stderr(f"{label}: {text}")


def hush_environment() -> None:
    """Disable the libraries' telemetry, progress bars and OpenMP spinning. Call before importing any of
    them.
    """
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ[name] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    # threads that wait for work spin; with two processes on the same cores that made both ten times slower,
    # and costs one alone 5 to 10 %
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def greet(command: str, arguments: Iterable[str]) -> None:
    """Say at once that a command has begun, where a person waits at a terminal: libraries take seconds."""
    silent = {"-q", "--quiet", "-h", "--help"}
    if sys.stderr.isatty() and not silent & set(arguments):
        _stderr(f"biasscope {command}: starting ...")


def without_colour(arguments: list[str]) -> None:
    """Take `--no-color` out of a command line, wherever it stands, and switch colours off."""
    if "--no-color" in arguments:
        arguments[:] = [argument for argument in arguments if argument != "--no-color"]
        os.environ["NO_COLOR"] = "1"


@dataclass(frozen=True)
class Screen(Voice):
    """What a person sees beside the data."""

    quiet: bool = False
    verbose: bool = False
    above: list[tuple[str, Sequence[tuple[str, str]]]] = field(default_factory=list)
    """What stands above the bar: at most one title with its rows."""

    def note(self, text: str) -> None:
        """Write a line to stderr, unless quiet."""
        if not self.quiet:
            _stderr(text)

    def warn(self, text: str) -> None:
        """Write a warning to stderr."""
        _stderr(f"warning: {text}")

    def track(self, units: Collection[Any], label: str) -> Iterable[Any]:
        """The units, with progress shown: a bar on a terminal, else a plain line every few seconds."""
        if self.quiet or not units:
            return units
        return _bar(units, label, self.above) if sys.stderr.isatty() else _lines(units, label)

    def standings(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show names with their numbers: above the bar on a terminal, else in a line."""
        self.above[:] = [(title, rows)]
        if not sys.stderr.isatty():
            self.note(f"{title}: {', '.join(' '.join(row) for row in rows)}")


def _lines(units: Collection[Any], label: str) -> Iterator[Any]:
    start = last = time.monotonic()
    for done, unit in enumerate(units, 1):
        yield unit
        now = time.monotonic()
        if now - last >= EVERY and done < len(units):
            last, rate = now, done / (now - start)
            _stderr(f"{label}: {done}/{len(units)}, {rate:.3g}/s, {clock((len(units) - done) / rate)} left")


def _bar(
    units: Collection[Any], label: str, above: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
) -> Iterator[Any]:
    from rich.console import Console, RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table
    from rich.text import Text

    class Shown(Progress):
        """The bar, and what stands above it."""

        def get_renderables(self) -> Iterable[RenderableType]:
            """Both."""
            for title, rows in above:
                yield Text(safe_text(title))
                table = Table(box=None, show_header=False)
                for row in rows:
                    table.add_row(*(Text(safe_text(cell)) for cell in row))
                yield table
            yield from super().get_renderables()

    class Rate(ProgressColumn):
        """Units a second."""

        def render(self, task: Task) -> Text:
            """The rate as text."""
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Shown(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(units, description=safe_text(label))


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes; where nobody is there to ask, the command itself says
    it.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write(f"{safe_text(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def age(days: float) -> str:
    """A time ago for people: 3 h, 12 d."""
    return (
        f"{days * 1440:.0f} min" if days < 1 / 24 else f"{days * 24:.0f} h" if days < 2 else f"{days:.0f} d"
    )
