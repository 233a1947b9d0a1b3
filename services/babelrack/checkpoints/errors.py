"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """A checkpoint can't be used; the message names it and the fix, in one sentence."""


class SourceUnavailable(CheckpointError):
    """The source can't be reached or won't serve; a copy that was fetched before still can."""


class FetchStopped(CheckpointError):
    """The caller's `stop` event was set; what has arrived is kept for the next start."""
