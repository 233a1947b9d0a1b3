"""Live streams at the pace of speech: how late words appear, how many streams keep up, what an hour costs."""
