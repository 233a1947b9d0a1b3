"""The public API of a pack, on :7100."""
