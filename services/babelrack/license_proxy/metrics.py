"""What the licence proxy tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["Metrics"]


class Metrics:
    """Gauges are set when they are scraped, counters count since the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seats_used = Gauge("license_seats_used", "API servers that hold a seat.", registry=self.registry)
        self.seats = Gauge("license_seats", "Seats of the licence.", registry=self.registry)
        self.expires_in = Gauge("license_expires_in_seconds", "Seconds until the licence ends.", registry=self.registry)
        self.validations = Counter("license_validations", "Validations.", ["result"], registry=self.registry)
        self.usage_records = Counter("license_usage_records", "Usage records.", ["result"], registry=self.registry)
        for result in ("ok", "unknown_key", "expired", "no_seat", "unavailable"):
            self.validations.labels(result)
        for result in ("accepted", "duplicate", "rejected"):
            self.usage_records.labels(result)
