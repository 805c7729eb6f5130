"""What checks annotated shapes in tests: beartype, once for each function of the source.

jaxtyping's hook decorates functions inside functions at every call of the outer one; decorating them anew
took a sixth of the time of what runs commands.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_KNOWN: dict[tuple[Any, ...], Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its types checked; one that stands at the same place with the same types is reused.

    What jaxtyping gives has a signature and no body, so that it is the same function.
    """
    names = function.__code__.co_varnames, tuple(function.__annotations__.items())
    key = function.__module__, function.__qualname__, names
    if key not in _KNOWN:
        _KNOWN[key] = beartype(function)
    return _KNOWN[key]
