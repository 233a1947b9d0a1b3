"""A closed loop of HTTP clients: each sends its next request when it has the answer to its last."""

import asyncio
import contextlib
import io
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import httpx
from tests.speech import RATE, Samples

from bench.workload import Request

PATH = "/waves/v1/pulse/get_text"
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What came back: `status` is HTTP's, or 0 when the connection failed; `seconds` is what the client waited."""

    status: int
    text: str
    seconds: float


class Load:
    """Clients of one gateway."""

    def __init__(self, gateway: str, key: str) -> None:
        self._url = f"{gateway}{PATH}"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "audio/wav"}

    async def each(self, requests: Sequence[Request], clients: int) -> list[Answer]:
        """Send every request once, by `clients` clients; the answers are in the order of the requests."""
        answers: dict[int, Answer] = {}
        bodies = [(request.language, wav(request.samples)) for request in requests]
        waiting = iter(enumerate(bodies))
        async with self._http(clients) as http:

            async def client() -> None:
                for index, (language, body) in waiting:
                    answers[index] = await self._send(http, language, body)

            await asyncio.gather(*(client() for _ in range(clients)))
        return [answers[index] for index in range(len(requests))]

    async def until(self, stop: asyncio.Event, requests: Sequence[Request], clients: int) -> list[Answer]:
        """Send requests over and over until `stop`; a client that is told to retry waits as long as it is told."""
        answers: list[Answer] = []
        bodies = [(request.language, wav(request.samples)) for request in requests]
        async with self._http(clients) as http:

            async def client(turns: Iterator[tuple[str, bytes]]) -> None:
                while not stop.is_set():
                    answer = await self._send(http, *next(turns), patient=stop)
                    answers.append(answer)

            await asyncio.gather(*(client(cycle(bodies[n % len(bodies) :] + bodies)) for n in range(clients)))
        return answers

    def _http(self, clients: int) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        return httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def _send(
        self, http: httpx.AsyncClient, language: str, body: bytes, patient: asyncio.Event | None = None
    ) -> Answer:
        sent = time.perf_counter()
        try:
            response = await http.post(self._url, params={"language": language}, content=body)
        except httpx.HTTPError:
            return Answer(0, "", time.perf_counter() - sent)
        seconds = time.perf_counter() - sent
        if response.status_code == 200:
            return Answer(200, response.json()["transcription"], seconds)
        if patient is not None and "retry-after" in response.headers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(patient.wait(), float(response.headers["retry-after"]))
        return Answer(response.status_code, response.text, seconds)


def wav(samples: Samples) -> bytes:
    """Return int16 mono samples at 16 kHz as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes(samples.tobytes())
    return file.getvalue()
