"""The WebSocket paths: who comes, may they, is there room; a session, new or one that goes on; and how it ended."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

from babelrack.api_server import options
from babelrack.api_server.errors import ApiError, ClientGone, InternalFault, NotFound, OverLimit, Unavailable
from babelrack.api_server.live.messages import SessionResumed, event_json
from babelrack.api_server.live.relay import RelayAway
from babelrack.api_server.live.session import Farewell, Session
from babelrack.api_server.live.transcript import LiveTranscript
from babelrack.api_server.transcription import CLIENT_GONE, from_refusal, subprotocol_of
from babelrack.keys import LimitExceeded
from babelrack.pairing import ModelServerLost, Refused, StreamRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.websockets import WebSocket

    from babelrack.api_server.admission import Admission
    from babelrack.api_server.drain import Drain
    from babelrack.api_server.live.relay import Kept, Relay
    from babelrack.api_server.metrics import Metrics
    from babelrack.api_server.options import Option
    from babelrack.api_server.transcription import Transcriber, Visit

PATHS: Mapping[str, Mapping[str, Option]] = {
    "/waves/v1/pulse/get_text": options.LIVE,
    "/waves/v1/stt/live": options.LIVE_STT,
    "/v1/listen": options.LIVE_LISTEN,
    "/v1/listen/stream": options.LIVE_LISTEN,
}

_ABNORMAL = 1006
_GRACE_SECONDS = 0.5

log = structlog.get_logger(__name__)


class LiveEndpoint:
    """`secret` is what digests of redacted entities are made with."""

    def __init__(
        self,
        here: Transcriber,
        relay: Relay,
        *,
        admission: Admission,
        metrics: Metrics,
        drain: Drain,
        secret: bytes,
    ) -> None:
        self.sessions = 0
        self._here = here
        self._relay = relay
        self._admission = admission
        self._metrics = metrics
        self._drain = drain
        self._secret = secret

    async def serve(self, socket: WebSocket) -> None:
        """Serve one socket to its end. What is wrong before the upgrade is an HTTP answer, later it is a close."""
        here = self._here
        async with here.visit(socket, "live") as visit, AsyncExitStack() as held:
            asked = options.query_pairs(socket.scope["query_string"])
            path = socket.scope["path"]
            resumed = options.parse_options(options.RESUMED, asked)
            wanted = options.parse_options(PATHS[path], asked)
            language = here.language(visit, wanted["language"])
            here.check_speakers(diarize=wanted["diarize"])
            refusal = await self._admit(visit, held)
            kept = None
            if resumed["session_id"] is not None and refusal is None:
                kept = await self._take(resumed["session_id"], visit)
                path, asked = kept.fixed["path"], [(name, value) for name, value in kept.fixed["asked"]]
                wanted = options.parse_options(PATHS[path], asked)
                language = here.language(visit, wanted["language"])
            visit.features += options.features(PATHS[path], wanted)
            visit.external_session_id = wanted["external_session_id"] or ""
            session_id = resumed["session_id"] or uuid.uuid4().hex
            transcript = LiveTranscript(session_id, wanted, self._secret, kept.now if kept else None)
            session = Session(
                here,
                socket,
                visit,
                transcript,
                wanted,
                drain=self._drain,
                is_gone=socket.scope["extensions"].get("babelrack.gone", lambda: False),
            )
            await socket.accept(
                subprotocol=subprotocol_of(socket.headers),
                headers=[(b"x-session-id", session_id.encode())],
            )
            visit.deferred = True  # from here on an error is no HTTP answer, and is counted below
            if refusal is not None:
                await session.close(Farewell.of(refusal))
                await here.count_live(visit, refusal.status)
                return
            trace = session.trace = self._relay.trace(
                session_id, visit.key.name, {"path": path, "asked": asked}, lambda: session.state
            )
            request = _request(here, visit, wanted, language, transcript)
            farewell = None
            try:
                farewell = await self._to_the_end(session, visit, request, kept, resumed)
                await held.aclose()  # the key's place is free when its client hears of the end
                if farewell.code != _ABNORMAL:
                    await session.close(farewell)
            finally:
                trace.end(forget=farewell is not None and not farewell.resumable)

    async def _admit(self, visit: Visit, held: AsyncExitStack) -> ApiError | None:
        """Take a place and one of the key's; what has to be told by a close is returned.

        Raises:
            OverLimit: when the key has opened too many sessions in this minute.
        """
        most = self._here.settings.max_live_sessions or self._admission.slots
        if self.sessions >= most:
            return Unavailable(f"this server already has {most} live sessions; try again later.", code="OVERLOADED")
        self.sessions += 1
        held.callback(self._leave)
        for patience in (_GRACE_SECONDS, 0.0):
            try:
                await held.enter_async_context(self._here.limiter.admit(visit.key))
                break
            except LimitExceeded as error:
                if error.kind == "concurrency" and patience:
                    await asyncio.sleep(patience)  # the key's last session may be about to end
                    continue
                self._metrics.rate_limited.labels(error.kind).inc()
                over = OverLimit(f"{error}.", retry_after=error.retry_after)
                if error.kind == "rate":
                    raise over from None
                return over
        return None

    def _leave(self) -> None:
        self.sessions -= 1

    async def _take(self, session_id: str, visit: Visit) -> Kept:
        try:
            kept = await self._relay.take(session_id, visit.key.name)
        except RelayAway:
            raise Unavailable(
                "sessions can't go on while Redis is away; open a new one.", code="NOT_RESUMABLE"
            ) from None
        if kept is None:
            raise NotFound(
                "there is no such session of this key, or its 30 seconds are over; open a new one.", code="NO_SESSION"
            )
        return kept

    async def _to_the_end(
        self, session: Session, visit: Visit, request: StreamRequest, kept: Kept | None, resumed: Mapping[str, Any]
    ) -> Farewell:
        status = 500
        farewell = Farewell(_ABNORMAL, "the client went away", CLIENT_GONE, resumable=True)
        try:
            audio_from = 0.0
            if kept is not None:
                audio_from = await _go_on(session, kept, resumed)
            async with self._here.pair.client.stream(request.model_copy(update={"start_s": audio_from})) as stream:
                visit.checkpoint = stream.accepted.checkpoint
                farewell = await session.run(stream, audio_from)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            status = 503
            raise
        except Refused as refused:
            farewell = Farewell.of(from_refusal(refused, request.language))
        except ModelServerLost as lost:
            self._here.pair.doubt()
            farewell = Farewell.of(Unavailable(f"{lost}; connect again.", code="MODEL_SERVER"))
        except ApiError as error:
            farewell = Farewell.of(error)
        except (OSError, TimeoutError):
            pass  # the client went away in the middle of what it missed
        except Exception:
            log.exception("live session failed", request_id=visit.request_id)
            fault = InternalFault("the server failed; its operator finds the reason under this request's id.")
            farewell = Farewell.of(fault)
        finally:
            if status == 500:
                status = farewell.status
            await self._here.count_live(visit, status)
        log.info(
            "session",
            code=farewell.code,
            reason=farewell.reason,
            audio_seconds=round(session.heard, 1),
            events=session.count,
            request_id=visit.request_id,
        )
        return farewell


async def _go_on(session: Session, kept: Kept, resumed: Mapping[str, Any]) -> float:
    """Send what the client has missed, and say from which second of audio on it has to send again."""
    missed = [event for number, event in kept.events if number > resumed["received"]]
    count = kept.now["count"]
    session.heard = kept.now["heard"]
    # The events that are kept are numbered anew, so that those that aren't there any more leave no gap.
    session.count = count
    renumbered = [(count - len(kept.events) + index + 1, event) for index, (_, event) in enumerate(kept.events)]
    audio_from: float = round(max(kept.now["position"], resumed["audio_from"]), 3)
    assert session.trace is not None  # noqa: S101 - made just before
    session.trace.go_on(kept, renumbered)
    session.continue_with(kept.text)
    resumption = SessionResumed(
        session_id=session.trace.session_id, audio_from=audio_from, received=count - len(missed)
    )
    await session.send(event_json(resumption))
    for event in missed:
        await session.send(event)
    return audio_from


def _request(
    here: Transcriber, visit: Visit, wanted: Mapping[str, Any], language: str, transcript: LiveTranscript
) -> StreamRequest:
    return StreamRequest(
        request_id=visit.request_id,
        deployment=here.settings.deployment_name,
        language=language,
        endpointing=wanted["endpointing"],
        eou_timeout_ms=wanted["eou_timeout_ms"],
        max_words=wanted["max_words"] if wanted["finalize_on_words"] else None,
        bounded=wanted["finalize_on_words"],
        words=transcript.needs_words,
        diarize=transcript.needs_words and wanted["diarize"],
        keywords=wanted["keywords"],
        voices=transcript.voices,
    )
