"""A client of the live API that sends at the pace of speech, or as fast as it may."""

import asyncio
import json
import time
from collections.abc import Callable
from urllib.parse import urlencode

from tests.speech import RATE, Samples
from websockets.asyncio.client import connect

from bench.live.speech import Talk
from bench.live.timeline import Shown

PATH = "/waves/v1/stt/live"
EOU_S = 0.8
_FRAME_S = 0.1
_LONGEST_WAIT_S = 600.0


class StreamFailed(Exception):
    """A session ended with an error."""


async def spoken(gateway: str, key: str, talk: Talk, *, delay_s: float = 0.0) -> list[Shown]:
    """Say a talk in real time, after `delay_s`; return what was shown when, by the clock of the talk."""
    await asyncio.sleep(delay_s)
    shown: list[Shown] = []
    speech_end: float | None = None
    async with _connected(gateway, key, talk.language, vad_events="true") as socket:
        begun = time.perf_counter()
        sending = asyncio.create_task(_send(socket, talk.samples, begun))
        async with asyncio.timeout(talk.seconds + _LONGEST_WAIT_S):
            async for message in socket:
                at, event = time.perf_counter() - begun, _event(message)
                if event["type"] == "speech_ended":
                    speech_end = event["timestamp"]
                elif event["type"] == "transcription":
                    final = event["is_final"]
                    shown.append(Shown(at, event["transcript"], final, speech_end if final else None))
                    speech_end = None if final else speech_end
        await sending
    return shown


async def pushed(gateway: str, key: str, language: str, samples: Samples, heard: Callable[[float, str], None]) -> None:
    """Send audio as fast as it is read; `heard` gets each utterance's end in seconds, and its text."""
    # No pings: on loopback the kernel holds minutes of audio, and they would wait behind it.
    async with _connected(gateway, key, language, ping_interval=None, sentence_timestamps="true") as socket:
        sending = asyncio.create_task(_send(socket, samples, None))
        async for message in socket:
            event = _event(message)
            if event["type"] == "transcription" and event["is_final"] and event["utterances"]:
                heard(event["utterances"][-1]["end"], event["transcript"])
        await sending


def _connected(gateway: str, key: str, language: str, *, ping_interval: float | None = 20, **options: str) -> connect:
    query = {"model": "pulse", "language": language, "encoding": "linear16", "sample_rate": str(RATE), **options}
    url = f"ws{gateway.removeprefix('http')}{PATH}?{urlencode(query)}"
    headers = {"Authorization": f"Bearer {key}"}
    return connect(url, additional_headers=headers, proxy=None, compression=None, ping_interval=ping_interval)


def _event(message: str | bytes) -> dict:
    event = json.loads(message)
    if event["type"] == "error":
        raise StreamFailed(event["message"])
    return event


async def _send(socket: connect, samples: Samples, begun: float | None) -> None:
    """Send frames, each when its last sample has been said, if there is a beginning to count from."""
    length = int(_FRAME_S * RATE)
    for start in range(0, len(samples), length):
        frame = samples[start : start + length]
        if begun is not None:
            await asyncio.sleep(begun + (start + len(frame)) / RATE - time.perf_counter())
        await socket.send(frame.tobytes())
    await socket.send(json.dumps({"type": "close_stream"}))
