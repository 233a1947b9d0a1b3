"""The on-prem path: `/v1/listen`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack import pairing
from babelrack.api_server import options
from babelrack.api_server.wording import Word, wording

if TYPE_CHECKING:
    from babelrack.api_server.transcription import Transcriber


class ListenAnswer(BaseModel):
    """A transcript as the on-prem path answers it; `confidence` from 0 to 1, `duration` in seconds.

    `words` is empty without `timestamps`.
    """

    model_config = ConfigDict(extra="forbid")

    request_id: str
    text: str
    confidence: float
    duration: float
    language: str
    words: list[Word]


class ListenEndpoint:
    """Options come in the query, as fields of the form, or beside the URL in JSON."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber

    async def listen(self, request: Request) -> Response:
        """Transcribe audio: raw, in a form's `audio`, or behind a URL."""
        here = self._transcriber
        async with here.visit(request) as visit:
            asked = options.query_pairs(request.scope["query_string"])
            options.parse_options(options.LISTEN, asked)  # a bad query is told before the body is read
            async with here.admitted(visit), here.received(request) as (body, spool):
                wanted = options.parse_options(options.LISTEN, [*asked, *body.fields])
                visit.features += options.features(options.LISTEN, wanted)
                language = here.language(visit, wanted["language"])
                source = await here.source(body, spool, encoding=wanted["encoding"], sample_rate=wanted["sample_rate"])
                question = pairing.Request(
                    request_id=visit.request_id,
                    deployment=here.settings.deployment_name,
                    language=language,
                    timestamps=False,
                    words=wanted["timestamps"],
                )
                transcript = await here.transcribe(visit, question, source)
        done = transcript.done
        said = await wording(transcript, wanted)
        answer = ListenAnswer(
            request_id=visit.request_id,
            text=said.text,
            confidence=round(min(max(done.confidence, 0.0), 1.0), 4),
            duration=round(done.duration, 3),
            language=done.language,
            words=said.words,
        )
        return Response(
            answer.model_dump_json(), media_type="application/json", headers={"x-checkpoint": done.checkpoint}
        )
