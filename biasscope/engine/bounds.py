"""How many sites that were not measured may still exceed a size, from a random sample of them. Draws and counts, no model."""

from scipy.stats import hypergeom

from biasscope.engine.schemas import LEVEL


def most_beyond(population: int, drawn: int, seen: int) -> int:
    """The largest number of a population's members that may exceed a size, with 95 % confidence, when `seen` of `drawn` random ones do.

    Exact for draws without replacement (hypergeometric). With no exceedance it is below the binomial population · (1 − 0.05^(1/drawn)).
    """
    low, high = seen, population - (drawn - seen)
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom(population, middle, drawn).cdf(seen) > LEVEL:
            low = middle
        else:
            high = middle - 1
    return low


def enough(population: int, miss: float) -> int:
    """How many random members must be drawn, none exceeding, before fewer than a share `miss` of the population may exceed."""
    low, high = 0, population
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if most_beyond(population, middle, 0) < max(1.0, miss * population) else (middle + 1, high)
    return low
