"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """A checkpoint can't be used; the message names it and the fix, in one sentence."""
