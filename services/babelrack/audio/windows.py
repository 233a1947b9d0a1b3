"""Long audio into windows that a recogniser can hold, cut where nobody speaks.

The policy sees one speech probability for each frame of 32 ms and no model. A window is one contiguous piece of the
file, so its times are the file's. Up to 30 s, a file is one window. A longer one is walked frame by frame: a window
opens a little before speech, closes at a pause that is worth leaving out, and when it grows to 20 s it is cut at the
best pause of its second half, or where the speech is weakest if there is none. As in WhisperX (Bain et al.,
2023, https://arxiv.org/abs/2303.00747), cutting by voice activity is what lets windows be transcribed in parallel.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from babelrack.audio import SAMPLE_RATE
from babelrack.audio.voice_activity import FRAME_SAMPLES

_BLOCK_SAMPLES: Final = 128 * FRAME_SAMPLES
"""How much is asked of the probability source at once, whatever the pushes: 4 s."""


class ProbabilitySource(Protocol):
    """What `SpeechProbability` is to the cutter."""

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the probabilities of the frames that are complete by now."""

    def flush(self) -> NDArray[np.float32]:
        """Return that of the incomplete last frame, if there is one."""


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Where to cut. Times in seconds."""

    longest_file_in_one: float = 30.0
    longest: float = 20.0
    """A window is cut at this length at the latest: attention costs the square of it, and 28 s read no better."""
    shortest_cut: float = 10.0
    """A cut for length leaves at least this much before it."""
    preferred_share: float = 2 / 3
    """A pause in the rest of the window after this share of `longest` is preferred over an earlier one."""
    weakest_within: float = 5.0
    """Without any pause, the weakest moment of the last seconds is where speech is cut."""
    pause: float = 2.0
    """Silence longer than this is left out between windows, …"""
    stands_alone: float = 5.0
    """… but a window shorter than this waits longer for more speech, until the two together are this long."""
    padding: float = 0.3
    """Kept of the silence on each side of speech."""
    trim: float = 1.0
    """Silence at the ends of a file in one window is kept up to this length."""
    threshold: float = 0.15
    """From this probability on a frame may be speech. Low: music, whispers and short words score little."""
    sure: float = 0.5
    """From this probability on a frame is taken for speech without doubt."""
    least_frames: int = 3
    """With fewer frames that may be speech, and none without doubt, a window is noise and left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A piece of the file: `samples` int16 at 16 kHz, of at most 30 s, from `start_s` on; nothing is padded."""

    index: int
    start_s: float
    samples: NDArray[np.int16]
    speech: bool
    """Whether some of it is speech without doubt, and not merely possibly: what language detection should hear."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """End in the file, in seconds."""
        return self.start_s + self.duration_s


@dataclass(slots=True)
class _Open:
    """The window that is growing, in frames of the file: from `start`, with speech up to `speech_end`."""

    start: int
    speech_end: int


class WindowCutter:
    """Cut one file, as it comes in, into windows: in order, disjoint, covering each frame that may be speech.

    Only one or two frames that are alone, and doubtful, are taken for noise: from silence a recogniser makes up text.

    The same file gives the same windows however it is pushed. At most some 35 s of it are held at any time.
    """

    def __init__(self, probabilities: ProbabilitySource, policy: WindowPolicy | None = None) -> None:
        self._source = probabilities
        self._policy = policy or WindowPolicy()
        self._incoming = bytearray()
        self._buffer = np.zeros(0, np.int16)
        self._buffer_frame = 0
        self._probability: list[float] = []
        self._next = 0
        self._settled = 0
        self._open: _Open | None = None
        self._windows = 0
        self._samples = 0

    @property
    def duration_s(self) -> float:
        """Seconds of the file so far."""
        return (self._samples + len(self._incoming) // 2) / SAMPLE_RATE

    def push(self, pcm: bytes) -> list[Window]:
        """Take 16 kHz mono s16le, cut anywhere, and return the windows that it completes."""
        windows: list[Window] = []
        view = memoryview(pcm)
        while view:
            wanted = 2 * _BLOCK_SAMPLES - len(self._incoming)
            self._incoming += view[:wanted]
            view = view[wanted:]
            if len(self._incoming) == 2 * _BLOCK_SAMPLES:
                self._take()
                windows += self._walk()
        return windows

    def flush(self) -> list[Window]:
        """Return the windows that are left: the file ends here."""
        self._take()
        self._probability += self._source.flush().tolist()
        if self._samples <= self._policy.longest_file_in_one * SAMPLE_RATE:
            return self._only_window()
        windows = self._walk()
        if self._open is not None:
            windows += self._close(self._open.speech_end + self._frames(self._policy.padding))
        return windows

    def _take(self) -> None:
        samples = np.frombuffer(bytes(self._incoming[: len(self._incoming) & ~1]), "<i2")
        self._incoming.clear()
        self._samples += len(samples)
        self._buffer = np.concatenate((self._buffer, samples))
        self._probability += self._source.feed(samples).tolist()

    def _only_window(self) -> list[Window]:
        policy = self._policy
        heard = [frame for frame, probability in enumerate(self._probability) if probability >= policy.threshold]
        if not heard:
            return []
        trim, padding = self._frames(policy.trim), self._frames(policy.padding)
        start = heard[0] - padding if heard[0] > trim else 0
        end = heard[-1] + 1
        end = end + padding if len(self._probability) - end > trim else len(self._probability)
        self._open = _Open(start, heard[-1] + 1)
        return self._close(end)

    def _walk(self) -> list[Window]:
        """Go through the frames that have come in; each step depends on earlier frames only."""
        windows: list[Window] = []
        if self._samples <= self._policy.longest_file_in_one * SAMPLE_RATE:
            return windows
        padding = self._frames(self._policy.padding)
        while self._next < self._buffer_frame + len(self._probability):
            frame = self._next
            self._next += 1
            if self._at(frame) >= self._policy.threshold:
                if self._open is None:
                    self._open = _Open(max(self._settled, frame - padding), frame + 1)
                self._open.speech_end = frame + 1
            if self._open is None:
                continue
            if self._pause_is_worth_it(self._open, frame + 1):
                windows += self._close(self._open.speech_end + padding)
            elif frame + 1 - self._open.start >= self._frames(self._policy.longest):
                windows += self._close(self._best_cut(self._open, frame + 1))
        self._forget()
        return windows

    def _pause_is_worth_it(self, window: _Open, now: int) -> bool:
        so_far = window.speech_end - window.start
        least = max(self._frames(self._policy.pause), self._frames(self._policy.stands_alone) - so_far)
        return now - window.speech_end > least

    def _best_cut(self, window: _Open, now: int) -> int:
        """Return the frame before which to cut: the middle of the longest late pause, else the weakest moment."""
        earliest = window.start + self._frames(self._policy.shortest_cut)
        preferred = window.start + self._frames(self._policy.longest * self._policy.preferred_share)
        pauses = self._pauses(earliest, now)
        if late := [pause for pause in pauses if sum(pause) // 2 >= preferred]:
            pauses = late
        if pauses:
            start, end = max(pauses, key=lambda pause: (pause[1] - pause[0], pause[0]))
            return (start + end + 1) // 2
        weakest_from = max(earliest, now - self._frames(self._policy.weakest_within))
        strength = self._strength(weakest_from - 1, now)
        around = strength[:-1] + strength[1:]
        return weakest_from + int(np.argmin(around))

    def _pauses(self, start: int, end: int) -> list[tuple[int, int]]:
        """List the runs of frames below the threshold within [start, end)."""
        pauses: list[tuple[int, int]] = []
        run = start
        for frame in range(start, end + 1):
            if frame == end or self._at(frame) >= self._policy.threshold:
                if frame > run:
                    pauses.append((run, frame))
                run = frame + 1
        return pauses

    def _strength(self, start: int, end: int) -> NDArray[np.float64]:
        """Return probability times loudness of each frame in [start, end)."""
        first = (start - self._buffer_frame) * FRAME_SAMPLES
        samples = self._buffer[first : first + (end - start) * FRAME_SAMPLES].astype(np.float64)
        samples = np.pad(samples, (0, (end - start) * FRAME_SAMPLES - len(samples)))
        loudness = np.sqrt(np.square(samples.reshape(-1, FRAME_SAMPLES)).mean(axis=1)) + 1.0
        probability = np.array([self._at(frame) for frame in range(start, end)])
        strength: NDArray[np.float64] = loudness * probability
        return strength

    def _close(self, end: int) -> list[Window]:
        """End the open window before frame `end`, go on from there, and return it unless it is noise."""
        start = self._open.start if self._open is not None else end
        self._open, self._settled, self._next = None, end, end
        probability = np.array(self._probability[start - self._buffer_frame : end - self._buffer_frame])
        speech = bool((probability >= self._policy.sure).any())
        if not speech and np.count_nonzero(probability >= self._policy.threshold) < self._policy.least_frames:
            return []
        first, last = ((frame - self._buffer_frame) * FRAME_SAMPLES for frame in (start, end))
        window = Window(self._windows, start * FRAME_SAMPLES / SAMPLE_RATE, self._buffer[first:last].copy(), speech)
        self._windows += 1
        return [window]

    def _forget(self) -> None:
        """Drop what no later window can begin with."""
        keep = self._next - self._frames(self._policy.padding) if self._open is None else self._open.start
        keep = max(self._settled, keep)
        drop = min(keep - self._buffer_frame, len(self._probability))
        if drop > 0:
            self._buffer = self._buffer[drop * FRAME_SAMPLES :].copy()
            del self._probability[:drop]
            self._buffer_frame += drop

    def _at(self, frame: int) -> float:
        return self._probability[frame - self._buffer_frame]

    @staticmethod
    def _frames(seconds: float) -> int:
        return int(seconds * SAMPLE_RATE / FRAME_SAMPLES)
