"""What Prometheus sees of an API server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from babelrack.licensing import LicenseState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from babelrack.api_server.admission import Admission
    from babelrack.api_server.health import Health
    from babelrack.api_server.pair import Pair
    from babelrack.licensing import LicenseGate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One registry a server, so that two in one process never share a number."""

    def __init__(self, admission: Admission, deployment: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "api_requests", "Requests, by endpoint and status.", ["endpoint", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "api_request_seconds",
            "From a request's head to the end of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.audio_seconds = Counter(
            "api_audio_seconds", "Audio transcribed.", ["checkpoint", "language"], registry=self.registry
        )
        self.body_bytes = Counter("api_audio_bytes", "Audio received, before decoding.", registry=self.registry)
        self.rate_limited = Counter("api_limited", "Requests over a key's limit.", ["kind"], registry=self.registry)
        self.deliveries = Counter(
            "api_job_deliveries", "Tries to deliver an answer to a webhook.", ["outcome"], registry=self.registry
        )
        here = Gauge("api_in_flight_requests", "Requests that hold a place.", registry=self.registry)
        here.set_function(lambda: admission.here)
        active = Gauge("api_active_requests", "Requests that hold a slot at the model server.", registry=self.registry)
        active.set_function(lambda: admission.running)
        queued = Gauge("api_queued_requests", "Requests that wait for a slot.", registry=self.registry)
        queued.set_function(lambda: admission.queued)
        slots = Gauge("api_slots", "Slots at the model server.", registry=self.registry)
        slots.set_function(lambda: admission.slots)
        build = Gauge("api_deployment", "Always 1; its label is the pack.", ["deployment"], registry=self.registry)
        build.labels(deployment).set(1)

    def watch(self, health: Callable[[], Health], pair: Pair, gate: LicenseGate) -> None:
        """Show what `/health` says, as numbers to alert on."""
        healthy = Gauge("api_healthy", "Whether requests are served: 1 or 0.", registry=self.registry)
        healthy.set_function(lambda: health().status != "unhealthy")
        degraded = Gauge("api_degraded", "Whether something is wrong all the same: 1 or 0.", registry=self.registry)
        degraded.set_function(lambda: health().status == "degraded")
        wrong = Gauge("api_wrong_pair", "Whether the model server is another pack's: 1 or 0.", registry=self.registry)
        wrong.set_function(lambda: pair.mismatched)
        license_ = Gauge("api_license", "1 for the licence's state, 0 for others.", ["state"], registry=self.registry)
        for state in get_args(LicenseState):
            license_.labels(state).set_function(partial(_is, gate, state))

    def watch_sessions(self, count: Callable[[], int]) -> None:
        """Show how many live sessions there are."""
        sessions = Gauge("api_live_sessions", "Live sessions over WebSockets.", registry=self.registry)
        sessions.set_function(count)

    def watch_jobs(self, counts: Mapping[str, int]) -> None:
        """Show how many jobs there are in each state; `counts` has all of them and stays current."""
        jobs = Gauge("api_jobs", "Jobs that were accepted, by state.", ["state"], registry=self.registry)
        for state in counts:
            jobs.labels(state).set_function(partial(counts.__getitem__, state))

    def exposition(self) -> bytes:
        """The text that `GET /metrics` answers."""
        return generate_latest(self.registry)


def _is(gate: LicenseGate, state: str) -> float:
    return float(gate.state == state)
