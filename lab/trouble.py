"""What can go wrong with a lab; each message is one sentence that names the thing and the fix."""


class LabError(Exception):
    """Something that was asked of a lab can't be done."""


class LabUnavailable(LabError):
    """This machine can't make such hosts; the message says what is missing and how to get it."""


class LabClash(LabError):
    """Another lab has the name or the addresses; under another name it would work."""
