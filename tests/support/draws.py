"""Fewer random draws, for what is not about how certain numbers are."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from biasscope.engine.statistics.inference import audit, resampling


@contextmanager
def few() -> Iterator[None]:
    """A fiftieth of the draws of a test or an interval, and few studies of the self-audit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "DRAWS", 399)
        patch.setattr(audit, "STUDIES", 20)
        yield
