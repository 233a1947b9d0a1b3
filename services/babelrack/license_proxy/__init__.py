"""The licence proxy: validates offline, counts seats, adds usage up exactly once."""
