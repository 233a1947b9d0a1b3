"""The engine on :2233."""
