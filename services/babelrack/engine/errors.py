"""What can go wrong in the engine."""


class EngineError(Exception):
    """The engine can't load a checkpoint or can't go on; the message is one sentence."""
