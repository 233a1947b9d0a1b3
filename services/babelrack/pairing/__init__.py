"""What an API server and its model server say to each other; see docs/architecture.md."""

from babelrack.pairing.client import ModelClient, ModelServerLost, ModelSession, Refused
from babelrack.pairing.messages import (
    SAMPLE_RATE,
    Accepted,
    CheckpointHealth,
    Delta,
    Done,
    Failed,
    LanguageDetected,
    ModelEvent,
    ModelHealth,
    Refusal,
    Request,
    Segment,
    Word,
)

__all__ = [
    "SAMPLE_RATE",
    "Accepted",
    "CheckpointHealth",
    "Delta",
    "Done",
    "Failed",
    "LanguageDetected",
    "ModelClient",
    "ModelEvent",
    "ModelHealth",
    "ModelServerLost",
    "ModelSession",
    "Refusal",
    "Refused",
    "Request",
    "Segment",
    "Word",
]
