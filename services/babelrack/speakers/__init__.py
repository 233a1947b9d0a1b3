"""Who speaks when: voices to embeddings, embeddings to speakers. No server, and no files but the model's own."""

from babelrack.speakers.diarizer import Diarization, Diarizer, Turn
from babelrack.speakers.session import Label, Session, Voices

__all__ = ["Diarization", "Diarizer", "Label", "Session", "Turn", "Voices"]
