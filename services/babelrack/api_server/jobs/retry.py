"""When to try again: the pause doubles with each failure, up to a bound, and no two jobs keep step."""

from __future__ import annotations

import random


def pause(failures: int, *, first: float, longest: float) -> float:
    """Seconds to wait after so many failures n in a row: min(first · 2ⁿ⁻¹, longest), or down to half of it.

    The random half keeps jobs apart that failed together, for the same receiver or model server.
    """
    return min(first * 2.0 ** min(failures - 1, 30), longest) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
