"""Clients that go on asking while something happens to a fleet, and what became of every request."""

import dataclasses
import threading
import time
from collections import Counter

import httpx

PATH = "/waves/v1/pulse/get_text"
# A request that has no answer after so long counts as lost; the longest that a fault is let stand is two minutes.
PATIENCE_S = 240.0
# Between an answer and the next question: the clients must leave the two cores something to roll with.
PAUSE_S = 1.5


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: when it was sent, how long it took, and what came back; status 0 is none at all."""

    sent: float
    seconds: float
    status: int
    said: str
    clean: bool = True

    @property
    def kind(self):
        """`answered`, `refused` with a reason and a time to come back, or `lost`."""
        if self.status == 200 and self.said:
            return "answered"
        return "refused" if self.status and self.clean and self.status != 200 else "lost"


class Traffic:
    """`clients` of one language, each asking again shortly after its last answer, from `with` to its end."""

    def __init__(self, gateway, key, clip, clients=1):
        self.gateway, self.key, self.clients = gateway, key, clients
        self.language, self.body = clip.language, clip.path.read_bytes()
        self.answers = []
        self._over = threading.Event()
        self._threads = []

    def __enter__(self):
        self._over.clear()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S + 30)
            assert not thread.is_alive(), "a client still waits for its answer"

    def once(self):
        """Ask once; gives the answer."""
        with self._http() as http:
            return self._send(http)

    def _http(self):
        return httpx.Client(headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE_S, trust_env=False)

    def _ask(self):
        with self._http() as http:
            while not self._over.is_set():
                self.answers.append(self._send(http))
                self._over.wait(PAUSE_S)

    def _send(self, http):
        sent = time.time()
        began = time.monotonic()
        try:
            response = http.post(
                self.gateway + PATH,
                params={"language": self.language},
                content=self.body,
                headers={"Content-Type": "audio/flac"},
            )
        except httpx.HTTPError as error:
            return Answer(sent, time.monotonic() - began, 0, f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - began
        try:
            body = response.json()
        except ValueError:
            return Answer(sent, seconds, response.status_code, response.text[:200], clean=False)
        said = body.get("transcription") or body.get("message") or ""
        return Answer(sent, seconds, response.status_code, said, clean=bool(said) and "retry-after" in response.headers)

    def since(self, when=0.0):
        """The answers to what was sent since then."""
        return [answer for answer in list(self.answers) if answer.sent >= when]

    def count(self, when=0.0):
        """How many were answered, refused and lost."""
        return Counter(answer.kind for answer in self.since(when))

    def wait(self, number, when=None, seconds=60.0):
        """Wait until so many requests more, sent from now or then on, were answered."""
        when = time.time() if when is None else when
        until = time.monotonic() + seconds
        while self.count(when)["answered"] < number:
            assert time.monotonic() < until, f"{self.language}: {self.count(when)} since then; {self.since(when)[-3:]}"
            time.sleep(0.1)
