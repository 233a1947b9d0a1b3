"""From `MODEL_URL` to an engine that is ready."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import torch

from babelrack.audio.voice_activity import VoiceActivity
from babelrack.checkpoints import Checkpoint, Step, prepare
from babelrack.checkpoints.speaker_model import fetch_speaker_model
from babelrack.engine import Engine, EngineOptions
from babelrack.model_server.routing import Routing
from babelrack.model_server.turns import Turns
from babelrack.speakers import Diarizer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from babelrack.model_server.settings import Settings

# As many live windows wait for the encoder of a CPU, so that it never idles; a GPU takes all that there are at once.
_AHEAD_ON_CPU = 2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What serves once it is there."""

    checkpoints: tuple[Checkpoint, ...]
    engine: Engine
    voice: VoiceActivity
    routing: Routing
    diarizer: Diarizer | None
    turns: Turns


def load(settings: Settings, progress: Callable[[Step], None], stop: threading.Event) -> Loaded:
    """Fetch, verify and load the checkpoints, warm them up and start the engine; blocks.

    Raises:
        CheckpointError, EngineError: in one sentence, what is wrong with them.
    """
    checkpoints = prepare(settings.model_url, settings.model_cache_dir, progress=progress, stop=stop)
    diarizer = None
    if settings.speaker_model_url:
        diarizer = Diarizer.load(
            fetch_speaker_model(settings.speaker_model_url, settings.model_cache_dir, progress, stop=stop)
        )
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = Engine(
        {checkpoint.name: checkpoint.path for checkpoint in checkpoints},
        EngineOptions(
            device=f"cuda:{settings.gpu_device_id}" if device == "cuda" else device,
            precision=settings.precision,
            threads=settings.threads or len(os.sched_getaffinity(0)),
            memory_bytes=settings.kv_memory_mib * 2**20 if settings.kv_memory_mib else None,
        ),
    )
    engine.warm_up()
    engine.start()
    log.info(
        "checkpoints loaded",
        checkpoints=[checkpoint.name for checkpoint in checkpoints],
        device=str(engine.device),
        precision=engine.precision,
        concurrency=engine.concurrency,
        slots={checkpoint.name: engine.load(checkpoint.name).slots for checkpoint in checkpoints},
    )
    return Loaded(
        checkpoints,
        engine,
        VoiceActivity.load(),
        Routing(checkpoints, settings.aggregator),
        diarizer,
        Turns(_AHEAD_ON_CPU if engine.device.type == "cpu" else engine.concurrency),
    )
