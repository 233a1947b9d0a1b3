"""Audio behind a URL: fetched by way of `outbound`, which guards the private network, and bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from babelrack.api_server.outbound import bad_url, header, parse_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpcore

    from babelrack.api_server.outbound import Outbound, Target

_MOST_REDIRECTS = 5
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity"}


class Fetcher:
    """Fetches the audio behind a URL, bounded in bytes (by the caller), redirects and time."""

    def __init__(self, outbound: Outbound, seconds: float) -> None:
        self._outbound = outbound
        self._seconds = seconds

    async def check(self, url: str) -> None:
        """Raise BadRequest when `url` is wrong, or points where it may not."""
        await self._outbound.check(url)

    async def fetch(
        self, url: str, check_size: Callable[[int], None], write: Callable[[bytes], Awaitable[None]]
    ) -> str | None:
        """Fetch `url` into `write` and return the file's name, if its path has one.

        `check_size` raises when so many bytes are too many.

        Raises:
            BadRequest: when the URL is wrong, points where it may not, or its server doesn't answer with 200.
        """
        target = parse_url(url)
        filename = target.filename
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(_MOST_REDIRECTS + 1):
                    async with self._outbound.exchange("GET", target, _HEADERS) as response:
                        if response.status not in (301, 302, 303, 307, 308):
                            await _take(response, check_size, write)
                            return filename
                        target = _redirected(target, response)
        except TimeoutError:
            raise bad_url(f"the url's server did not deliver within {self._seconds:g} seconds.") from None
        raise bad_url(f"the url redirects more than {_MOST_REDIRECTS} times.")


def _redirected(target: Target, response: httpcore.Response) -> Target:
    location = header(response, b"location")
    if not location:
        raise bad_url(f"the url's server answered {response.status} without a location.")
    following = parse_url(urljoin(target.url, location))
    if target.scheme == "https" and following.scheme == "http":
        raise bad_url("the url redirects from https to http.")
    return following


async def _take(
    response: httpcore.Response, check_size: Callable[[int], None], write: Callable[[bytes], Awaitable[None]]
) -> None:
    if response.status != 200:
        raise bad_url(f"the url's server answered {response.status} instead of 200.")
    if header(response, b"content-encoding").strip().lower() not in ("", "identity"):
        raise bad_url("the url's server sends compressed content although none was asked for.")
    declared = header(response, b"content-length")
    if declared.isascii() and declared.isdigit() and len(declared) < 20:
        check_size(int(declared))
    size = 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        check_size(size)
        await write(chunk)
