"""What goes wrong with a release."""

from __future__ import annotations


class ReleaseError(Exception):
    """A release can't be built, found or trusted; the message says which file and what to do."""
