"""The on-prem path: `/v1/listen`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack.api_server import options
from babelrack.api_server.wording import Word, wording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babelrack.api_server.jobs.endpoint import JobEndpoints
    from babelrack.api_server.transcription import Source, Transcriber, Visit


class ListenAnswer(BaseModel):
    """A transcript as the on-prem path answers it; `confidence` from 0 to 1, `duration` in seconds.

    `words` is empty without `timestamps`, and has speakers with `diarize`.
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

    def __init__(self, transcriber: Transcriber, jobs: JobEndpoints) -> None:
        self._transcriber = transcriber
        self._jobs = jobs

    async def listen(self, request: Request) -> Response:
        """Transcribe audio: raw, in a form's `audio`, or behind a URL."""
        here = self._transcriber
        async with here.visit(request) as visit:
            asked = options.query_pairs(request.scope["query_string"])
            options.parse_options(options.LISTEN, asked)  # a bad query is told before the body is read
            async with here.admitted(visit), here.received(request) as (body, spool):
                asked += body.fields
                wanted = options.parse_options(options.LISTEN, asked)
                visit.features += options.features(options.LISTEN, wanted)
                here.language(visit, wanted["language"])
                here.check_speakers(diarize=wanted["diarize"])
                if wanted["callback_url"] is not None:
                    webhook = await self._jobs.check(wanted["callback_url"], "callback_url")
                    return await self._jobs.accept(
                        visit, webhook, body, spool, dialect="listen", table=options.LISTEN, asked=asked, wanted=wanted
                    )
                source = await here.source(body, spool, encoding=wanted["encoding"], sample_rate=wanted["sample_rate"])
                answer = await listen_json(here, visit, source, wanted)
        return Response(answer, media_type="application/json", headers={"x-checkpoint": visit.checkpoint})


async def listen_json(here: Transcriber, visit: Visit, source: Source, wanted: Mapping[str, Any]) -> str:
    """Transcribe `source` in the visit's language, and answer as the on-prem path does."""
    transcript = await here.transcript(
        visit, source, words=wanted["timestamps"], diarize=wanted["diarize"], keywords=wanted["keywords"]
    )
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
    return answer.model_dump_json(exclude_unset=True)
