"""One bounded POST to the licence proxy."""

from __future__ import annotations

import httpx

__all__ = ["post"]

LARGEST_ANSWER = 1024 * 1024


async def post(client: httpx.AsyncClient, path: str, body: str) -> tuple[int, bytes]:
    """Send `body` (JSON) and return the answer's status and content. Raises httpx.HTTPError, also past 1 MiB."""
    content = bytearray()
    headers = {"Content-Type": "application/json"}
    async with client.stream("POST", path, content=body.encode(), headers=headers) as answer:
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > LARGEST_ANSWER:
                raise httpx.DecodingError("its answer is too long")
        return answer.status_code, bytes(content)
