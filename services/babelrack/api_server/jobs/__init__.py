"""Requests whose answer is delivered later: kept on disk, transcribed when there is room, posted to a webhook."""
