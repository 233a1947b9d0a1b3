"""Prometheus metrics of a model server, on a port of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

    from babelrack.model_server.server import ModelServer


class ModelServerCollector(Collector):
    """Reads the server's state when it is asked."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """The metrics of the wire reference, by checkpoint, then those of the engine."""
        server = self._server
        loaded = server.loaded
        names = list(server.admissions)
        yield self._gauge("asr_active_requests", "Requests in work.", lambda n: server.admissions[n].active, names)
        yield self._gauge("asr_batch_queue_depth", "Requests that wait.", lambda n: server.admissions[n].queued, names)
        yield self._gauge("asr_active_streams", "Live streams in work.", lambda n: server.admissions[n].streams, names)
        waiting = "Live streams that wait."
        yield self._gauge("asr_stream_queue_depth", waiting, lambda n: server.admissions[n].streams_queued, names)
        healthy = GaugeMetricFamily("asr_healthy", "Whether requests are taken: 1 or 0.")
        healthy.add_metric([], float(server.status[0] == "healthy"))
        yield healthy
        if loaded is None:
            return
        loads = {name: loaded.engine.load(name) for name in names}
        yield self._gauge("asr_windows_running", "Windows in the batch.", lambda n: loads[n].running, names)
        yield self._gauge("asr_windows_waiting", "Windows that wait for a slot.", lambda n: loads[n].waiting, names)
        yield self._gauge("asr_slots", "Key-value slots.", lambda n: loads[n].slots, names)
        for metric, text in (
            ("windows", "Windows transcribed."),
            ("audio_seconds", "Audio transcribed, in seconds."),
            ("retries", "Windows decoded again because the decode looked wrong."),
            ("tokens", "Tokens decoded."),
        ):
            counter = CounterMetricFamily(f"asr_{metric}", text, labels=["checkpoint"])
            for name in names:
                counter.add_metric([name], getattr(loads[name].totals, metric))
            yield counter

    @staticmethod
    def _gauge(name: str, text: str, value: Callable[[str], int], checkpoints: list[str]) -> GaugeMetricFamily:
        gauge = GaugeMetricFamily(name, text, labels=["checkpoint"])
        for checkpoint in checkpoints:
            gauge.add_metric([checkpoint], value(checkpoint))
        return gauge


def serve_metrics(server: ModelServer, host: str, port: int) -> tuple[WSGIServer, Thread]:
    """Serve `/metrics` from a thread of its own, so that it answers whatever the event loop does.

    Raises:
        OSError: when the port is taken.
    """
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(ModelServerCollector(server))
    return start_http_server(port, host, registry)
