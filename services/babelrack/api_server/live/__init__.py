"""Live speech: WebSocket sessions, those who watch them, and what lets them go on at another replica."""
