"""How likely each 32 ms of audio holds speech, by Silero VAD (https://github.com/snakers4/silero-vad, version 6).

The model is the `silero_vad` package's own file for whole sequences. It carries the recurrent state through any number
of frames in one call, so that its probabilities are those of the frame-by-frame model at a third of the cost.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FRAME_SAMPLES: Final = 512
"""Samples of one probability: 32 ms at 16 kHz."""

_CONTEXT_SAMPLES: Final = 64
_STATE_SHAPE: Final = (1, 1, 128)
_FRAMES_A_CALL: Final = 512
_MODEL: Final = "silero_vad_16k_sequence.onnx"


class VoiceActivity:
    """The model: one for a process, shared by all streams; calls run side by side and hold no lock of Python's."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @classmethod
    def load(cls) -> Self:
        """Load the bundled model on one thread that never spins. Raise `FileNotFoundError` where the package lacks it.

        The package itself is not imported: it would set torch's thread count to one for the whole process.
        """
        package = find_spec("silero_vad")
        if package is None or package.origin is None:
            raise FileNotFoundError("The package silero-vad is not installed; install Babelrack's dependencies again.")
        path = Path(package.origin).parent / "data" / _MODEL
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; install silero-vad 6.2.3, which brings it.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return cls(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))

    def run(
        self, frames: NDArray[np.float32], hidden: NDArray[np.float32], cell: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return (frames,) probabilities and the next state for (frames, 64 + 512) samples in [-1, 1] and a state."""
        probabilities, hidden, cell = self._session.run(
            ("speech_probs", "hn", "cn"), {"input": frames, "h": hidden, "c": cell}
        )
        return probabilities.reshape(-1), hidden, cell


class SpeechProbability:
    """One stream's probabilities: `feed` samples in pieces of any size; how they are cut changes nothing."""

    def __init__(self, model: VoiceActivity) -> None:
        self._model = model
        self._hidden = np.zeros(_STATE_SHAPE, np.float32)
        self._cell = np.zeros(_STATE_SHAPE, np.float32)
        self._held = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def feed(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return one probability for each frame of 512 samples that is complete by now, possibly none."""
        self._held = np.concatenate((self._held, samples.astype(np.float32) / 32768.0))
        count = (len(self._held) - _CONTEXT_SAMPLES) // FRAME_SAMPLES
        if count == 0:
            return np.zeros(0, np.float32)
        strided = np.lib.stride_tricks.sliding_window_view(self._held, _CONTEXT_SAMPLES + FRAME_SAMPLES)
        frames = strided[: count * FRAME_SAMPLES : FRAME_SAMPLES]
        calls = range(0, count, _FRAMES_A_CALL)
        found = [self._run(frames[start : start + _FRAMES_A_CALL]) for start in calls]
        self._held = self._held[count * FRAME_SAMPLES :].copy()
        return np.concatenate(found)

    def flush(self) -> NDArray[np.float32]:
        """Return that of the incomplete last frame, as if silence followed, or none. The stream ends here."""
        missing = FRAME_SAMPLES + _CONTEXT_SAMPLES - len(self._held)
        return self.feed(np.zeros(missing if missing < FRAME_SAMPLES else 0, np.int16))

    def _run(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        probabilities, self._hidden, self._cell = self._model.run(
            np.ascontiguousarray(frames), self._hidden, self._cell
        )
        return probabilities
