"""When to start a dead process again: at once is a busy loop, never is an outage."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
FAILED_AFTER = 3
FORGIVEN_AFTER_SECONDS = 60.0


@dataclass
class BackOff:
    """1, 2, 4 … 30 seconds; the count starts anew after a minute of health."""

    deaths: int = 0

    def died(self, healthy_seconds: float) -> float:
        """Count a death after so many seconds of health; how long to wait before the next start, in seconds."""
        if healthy_seconds >= FORGIVEN_AFTER_SECONDS:
            self.deaths = 0
        self.deaths += 1
        return float(min(FIRST_SECONDS * 2 ** min(self.deaths - 1, 16), LONGEST_SECONDS))

    @property
    def failed(self) -> bool:
        """Whether it keeps dying, so that waiting for it makes no sense."""
        return self.deaths >= FAILED_AFTER
