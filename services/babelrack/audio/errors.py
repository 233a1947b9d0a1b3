"""Why an upload can't be transcribed: a code for programs and a sentence for people."""

from typing import Final

CODES: Final = frozenset({"EMPTY", "NOT_AUDIO", "UNDECODABLE", "TOO_LONG", "UNKNOWN_ENCODING"})


class AudioError(Exception):
    """The upload is at fault. `code` is one of `CODES`; `message` is one sentence that names the fault and the fix."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class DecoderLost(AudioError):
    """The decoder went away (killed, out of memory, could not start): the host is at fault, and a retry can help."""

    def __init__(self, message: str) -> None:
        super().__init__("DECODER_LOST", message)
