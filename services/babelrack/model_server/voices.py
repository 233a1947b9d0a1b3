"""The voices of a live stream's speakers, on their way to another model server of the same pack."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import numpy as np

from babelrack import speakers
from babelrack.pairing.messages import MOST_VOICE_BYTES, Voices

if TYPE_CHECKING:
    from babelrack.speakers import Diarizer, Session


def packed(session: Session) -> Voices | None:
    """Whom `session` knows; None when there is nobody yet, or when they are too large to be told."""
    known = session.voices
    means = base64.b64encode(known.means.astype("<f2").tobytes()).decode()
    if not len(known.counts) or len(means) > MOST_VOICE_BYTES:
        return None
    return Voices(model=session.diarizer.model, means=means, counts=tuple(known.counts.tolist()))


def unpacked(voices: Voices | None, diarizer: Diarizer) -> speakers.Voices | None:
    """Those `voices`; None when there are none, or none that this speaker model could know again."""
    if voices is None or voices.model != diarizer.model:
        return None
    try:
        means = np.frombuffer(base64.b64decode(voices.means, validate=True), "<f2").astype(np.float32)
        means = means.reshape(len(voices.counts), diarizer.encoder.embedding_size)
    except (binascii.Error, ValueError):
        return None
    # A mean of vectors of length one is not longer, and one without a direction is nobody's.
    lengths = np.linalg.norm(means, axis=1)
    if not np.all((lengths > 1e-3) & (lengths < 1.01)):
        return None
    return speakers.Voices(means, np.array(voices.counts))
