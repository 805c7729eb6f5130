"""biasscope: where inside a causal language model social bias sits, how certain that is, and what it costs to
remove.

`import biasscope as bs` is the command as functions: `bs.ablate("gpt2", "winogender").summary`. It loads next
to nothing; the first name that is asked for does (PEP 562).
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
EXPERIMENTS = ("baseline", "patch", "ablate", "probe", "encode")
"""Commands that are functions here, with the same options."""
CONCLUDED = ("circuit", "compare", "mitigate", "export")
"""Functions that go on from a finished run."""
__all__ = (
    "Run",
    "ablate",
    "baseline",
    "circuit",
    "compare",
    "encode",
    "export",
    "forest",
    "load",
    "load_dataset",
    "load_model",
    "mitigate",
    "patch",
    "probe",
    "prompts",
    "report",
    "sites",
    "sweep",
)

if TYPE_CHECKING:
    from biasscope.api import (
        Run,
        forest,
        load,
        load_dataset,
        load_model,
        prompts,
        report,
        sites,
        sweep,
    )
    from biasscope.conclude import circuit, compare, export, mitigate


def __getattr__(name: str) -> Any:
    """A name of the API, loaded when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'biasscope' has no attribute '{name}'; it has: {', '.join(__all__)}")
    from biasscope import api

    if name in CONCLUDED:
        from biasscope import conclude

        value = getattr(conclude, name)
    else:
        value = api.experiment(name) if name in EXPERIMENTS else getattr(api, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
