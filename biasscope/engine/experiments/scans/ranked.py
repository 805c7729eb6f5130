"""The run that another continues: its sites, its options, how it measured."""

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from biasscope.engine import schemas
from biasscope.engine.errors import DataError, UsageError
from biasscope.engine.experiments.scans import models, session
from biasscope.engine.settings import Dtype, Measure
from biasscope.engine.statistics import cells, racing
from biasscope.engine.store import cache, reproduce, runs
from biasscope.engine.store.seals import Seal
from biasscope.engine.types import SOURCES, Site

TAKEN = ("limit", "seed", "dtype", "revision", "skip_invalid", "no_space", "max_memory")
"""Options that are those of the run."""


@dataclass(frozen=True)
class RankedRun:
    """The run whose sites are ranked, and how it measured."""

    record: runs.RunRecord
    folder: Path
    options: Measure
    source: str
    partners: dict[str, str]
    """Group → the one group it was exchanged for."""
    seal: Seal

    def check(self, run: session.Running) -> None:
        """Say where the record is not sealed; DataError where model or data are not what it measured."""
        digest = self.record.model.digest if self.record.model else ""
        if run.weights.digest != digest:
            raise DataError(
                f"{self.folder} measured weights {digest[:12]}…, {run.options.model} has "
                f"{run.weights.digest[:12]}…; measure it again"
            )
        (data,), (part,) = run.datasets, self.record.datasets
        if data.digest != part.digest:
            raise DataError(
                f"{self.folder} measured other examples than {data.name} has now; measure it again"
            )
        if self.seal is not Seal.SEALED:
            run.warn(f"run {self.folder.name} is {self.seal}: made by an older version, or copied")

    @property
    def key(self) -> str:
        """The run's key."""
        return self.record.datasets[0].run_key

    @property
    def over_edges(self) -> bool:
        """Whether it estimated edges."""
        return self.record.params.get("method") == "edges"

    @property
    def twins(self) -> bool:
        """Whether its sites took the activations of twins."""
        return self.source == "corrupt"

    def sites(self) -> list[Site]:
        """Its heads and MLPs, in the model's order."""
        rows = pl.read_parquet(self.folder / "summary.parquet").filter(
            pl.col("source") == self.source,
            pl.col("method") != racing.METHOD,
            pl.col("component").is_in(["z", "mlp_out"]),
            pl.col("position") == "all",
            schemas.single_sites(),
        )
        return sorted(set(cells.sites_of(rows)))

    def chosen(self) -> str | None:
        """The option by which the run chose its sites on all of its groups, if it did."""
        params = self.record.params
        if params.get("adaptive"):
            return "--adaptive"
        return f"--top {params['top']}" if params.get("top") else None

    def more(self, sites: int) -> str:
        """What to do where these sites do nothing together."""
        model, ways = self.record.model, []
        every = model.layers * (model.heads + 1) if model else sites
        if sites < every:
            ways.append(f"scan more sites (these are {sites} of the model's {every} heads and MLPs)")
        if self.options.limit is not None:
            ways.append("scan more examples (without --limit)")
        return " or ".join(ways or ["take a run with another --source or dataset"])


def _refuse_others(o: Measure, name: str, model: str, dataset: str) -> None:
    """Raise UsageError where another model or dataset is asked for than the run's; a worker is given its part
    of the data.
    """
    others = {"--model": (model, o.model != Measure.model and Path(o.model) != Path(model))}
    if o.dataset and not o.held.datasets:
        others["--dataset"] = dataset, [Path(given).name for given in o.dataset] != [Path(dataset).name]
    for option, (own, differs) in others.items():
        if differs:
            raise UsageError(f"--from {name} is a run with {option} {own}; leave {option} out, or scan again")


def find(o: Measure, name: str) -> RankedRun:
    """The run of that name, and the options with which it is continued: its model, data, seed and numbers."""
    stored, record = cache.whole(o.output_dir, name, o.cache_dir)
    folder, params = stored.folder, record.params
    edited = params.get("given") or params.get("direction") == "denoising"
    if record.command not in ("ablate", "patch") or edited:
        raise DataError(
            f"{folder} cannot rank sites for a circuit; take a run of ablate (without --given) or patch "
            "(noising)"
        )
    _refuse_others(o, name, params["model"], reproduce.dataset(record))
    available = set(pl.read_parquet(folder / "summary.parquet", columns=["source"])["source"])
    source = next(name for name in SOURCES if name in available)
    taken = {name: params[name] for name in TAKEN if name in params} | {"dtype": Dtype(params["dtype"])}
    taken |= {"model": params["model"], "data_dir": Path(params["data_dir"])}
    if o.edit is None and models.measured_edit(params) is not None:
        taken["edit"] = Path(params["edit"])
    options = replace(o, dataset=[reproduce.dataset(record)], **taken)
    twins = folder / "twins.parquet"
    partners = cells.partners(pl.read_parquet(twins)) if twins.is_file() else {}
    return RankedRun(record, folder, options, source, partners, stored.seal)
