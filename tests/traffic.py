"""Clients that go on asking while something happens to a fleet, and what became of every request."""

import contextlib
import dataclasses
import subprocess
import threading
import time
from collections import Counter

import httpx

import speech

PATH = "/waves/v1/pulse/get_text"
# A request that has no answer after so long counts as lost; the longest that a fault is let stand is two minutes.
PATIENCE_S = 240.0
# Between an answer and the next question: a roll takes minutes, and the clients must leave the two cores something
# to roll with; under a fault there is time for few questions.
PAUSE_S, SHORT_PAUSE_S = 4.0, 1.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: when it was sent, how long it took, and what came back; status 0 is none at all.

    A live session whose connection was lost says so in `complaint`.
    """

    sent: float
    seconds: float
    status: int
    said: str
    clean: bool = True
    complaint: str = ""

    @property
    def kind(self):
        """`answered`, `refused` with a reason and a time to come back, or `lost`."""
        if self.status == 200 and self.said:
            return "answered"
        return "refused" if self.status and self.clean and self.status != 200 else "lost"


class Traffic:
    """`clients` of one language, each asking again shortly after its last answer, from `with` to its end."""

    def __init__(self, gateway, key, clip, clients=1, pause_s=PAUSE_S):
        self.gateway, self.key, self.clients, self.pause_s = gateway, key, clients, pause_s
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
        with self._asking() as ask:
            return ask()

    @contextlib.contextmanager
    def _asking(self):
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(headers=headers, timeout=PATIENCE_S, trust_env=False) as http:
            yield lambda: self._send(http)

    def _ask(self):
        with self._asking() as ask:
            while not self._over.is_set():
                self.answers.append(ask())
                self._over.wait(self.pause_s)

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


class Sessions(Traffic):
    """The same with live sessions: each says the clip at the pace of speech, as an operator does at a shell."""

    def __init__(self, project, gateway, clip, clients=1):
        super().__init__(gateway, "", clip, clients, SHORT_PAUSE_S)
        self._text = clip.text
        self._command = project.command(
            "babelrack", "transcribe", "--live", "--language", clip.language, "--gateway", gateway,
            "--key-file", project.client_key, clip.path,
        )  # fmt: skip

    @contextlib.contextmanager
    def _asking(self):
        yield self._talk

    def _talk(self):
        sent = time.time()
        began = time.monotonic()
        try:
            done = subprocess.run(
                self._command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            return Answer(sent, time.monotonic() - began, 0, f"{error}")
        seconds = time.monotonic() - began
        said = " ".join(done.stdout.split())
        if done.returncode:
            # A session that was begun and is not brought to its end is no clean refusal.
            return Answer(sent, seconds, 503, said, clean=not said, complaint=done.stderr)
        whole = speech.score([self._text], [said]).wer < 0.25
        return Answer(sent, seconds, 200 if whole else 0, said, complaint=done.stderr)
