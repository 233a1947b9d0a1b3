"""A whole rack as local processes, without root: Redis, the licence proxy, each pack's pair of servers, nginx."""


class RackError(Exception):
    """The rack can't be started, found or stopped; the message names what is wrong and the fix, in one sentence."""
