"""Prints what a healthy API server's /metrics says, from the registry that API servers have."""

from types import SimpleNamespace

from babelrack.api_server.admission import Admission
from babelrack.api_server.health import Health
from babelrack.api_server.metrics import Metrics

metrics = Metrics(Admission(None, 60), "indic")
metrics.watch(
    lambda: Health(status="healthy"), pair=SimpleNamespace(mismatched=False), gate=SimpleNamespace(state="valid")
)
print(metrics.exposition().decode(), end="")  # noqa: T201 - it is what the scenario reads
