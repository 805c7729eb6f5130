"""What people see: tables, sentences, figures, pages. As a function, `biasscope.report(runs, "report.html")` writes a report."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Report(ModuleType):
    """The package, which is also the function of its name: `bs.report` beside `bs.ablate`."""

    def __call__(self, runs: Sequence[Any] | None = None, out: str | Path = "report.html", *, output_dir: str | Path = "results") -> Path:
        """The report's page, written with its Markdown twin and figures beside it: of these runs (`Run` or key), else of all in a folder.

        DataError where there is no run to show, DamagedError where one is not what was written.
        """
        from biasscope.report import document, gather

        named = [[run] if isinstance(run, str) else [part.path for part in run.record.datasets] for run in runs or []]
        shown = gather.gather(Path(output_dir), [name for names in named for name in names], None)
        _, page = document.save(shown, Path(out).with_suffix(".md"))[0]
        shown.check()
        return page


sys.modules[__name__].__class__ = _Report
