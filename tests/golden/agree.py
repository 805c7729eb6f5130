"""Where two records differ: words, order and whole numbers exactly, floats to 1e-5, printed ones to a unit of
their last digit.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

PRINTED = re.compile(r"[-−]?\d+(?:\.\d+(?:e[-−+]?\d+)?|e[-−+]?\d+)")
COUNTED = re.compile(r"/floats/(?:p|p_family|q)\[")
DRAWS = 2e-3
"""How far a p may be: it is a share of draws, and one that is as far out as what was measured falls to either
side.
"""
LISTED = 3
"""Differences of one list that are shown."""
_GONE = object()


def differences(stored: Any, found: Any, close: float, where: str = "") -> Iterator[str]:
    """One line for each place at which `found` is not what was stored; `close` is how far a float may be, of
    its size or of 1.
    """
    if isinstance(stored, dict) and isinstance(found, dict):
        for name in dict.fromkeys([*stored, *found]):
            # what the libraries' versions and the weights' last bits decide is compared only between equal
            # ones
            if name != "environment" and not (
                name == "key" and stored.get("environment") != found.get("environment")
            ):
                yield from _of(stored.get(name, _GONE), found.get(name, _GONE), close, f"{where}/{name}")
        if list(stored) != list(found) and set(stored) == set(found):
            yield f"{where}: the order is {', '.join(found)}; stored {', '.join(stored)}"
    elif isinstance(stored, list) and isinstance(found, list):
        pairs = enumerate(zip_longest(stored, found, fillvalue=_GONE))
        lines = [
            line for number, (one, other) in pairs for line in _of(one, other, close, f"{where}[{number}]")
        ]
        yield from (
            lines
            if len(lines) <= LISTED
            else [*lines[:LISTED], f"{where}: {len(lines)} of {len(found)} differ in all"]
        )
    elif not same(stored, found, max(close, DRAWS) if COUNTED.search(where) else close):
        yield f"{where}: {_shown(found)}; stored {_shown(stored)}"


def _of(stored: Any, found: Any, close: float, where: str) -> Iterator[str]:
    if stored is _GONE or found is _GONE:
        yield f"{where}: {'new' if stored is _GONE else 'gone'}"
    else:
        yield from differences(stored, found, close, where)


def same(stored: Any, found: Any, close: float) -> bool:
    """Whether two values are the same but for the last bits of floats."""
    if isinstance(stored, str) and isinstance(found, str):
        return stored == found or _same_text(stored, found, close)
    if (
        isinstance(stored, float | int)
        and isinstance(found, float | int)
        and float in (type(stored), type(found))
    ):
        return abs(stored - found) <= close * max(1.0, abs(stored))
    return type(stored) is type(found) and stored == found


def _same_text(stored: str, found: str, close: float) -> bool:
    """Whether two texts differ in nothing but a unit of the last digit of a number."""
    if PRINTED.split(stored) != PRINTED.split(found):
        return False
    pairs = zip(PRINTED.findall(stored), PRINTED.findall(found), strict=True)
    return all(
        abs(_value(one) - _value(other)) <= max(close * max(1.0, abs(_value(one))), 1.01 * _unit(one))
        for one, other in pairs
    )


def _value(printed: str) -> float:
    return float(printed.replace("−", "-"))


def _unit(printed: str) -> float:
    """One in the last digit of a printed number."""
    digits, _, power = printed.replace("−", "-").partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
