"""The Pulse paths: `/waves/v1/pulse/get_text` and `/waves/v1/stt`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from babelrack.api_server import options
from babelrack.api_server.errors import BadRequest, BodyTooLarge
from babelrack.api_server.jobs.webhook import extra_json
from babelrack.api_server.wording import Utterance, Word, Wording, wording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babelrack.api_server.body import Body
    from babelrack.api_server.jobs.endpoint import JobEndpoints
    from babelrack.api_server.jobs.webhook import Webhook
    from babelrack.api_server.options import Option
    from babelrack.api_server.transcription import Source, Transcriber, Transcript, Visit


class Metadata(BaseModel):
    """`duration` in seconds, `fileSize` in bytes, `rtfx` in seconds of audio a second; `filename` of a URL only."""

    model_config = ConfigDict(extra="forbid")

    duration: float
    fileSize: int  # noqa: N815 - as the wire has it
    processing_time_ms: float
    rtfx: float
    num_chunks: int
    filename: str | None = None


class PulseAnswer(BaseModel):
    """A transcript as the Pulse paths answer it.

    `words` and `utterances` are empty without `word_timestamps`, and have speakers with `diarize`; `warnings` is there
    only where an option did less than its name says.
    """

    model_config = ConfigDict(extra="forbid")

    status: Literal["success"]
    transcription: str
    words: list[Word]
    utterances: list[Utterance]
    language: str
    request_id: str
    metadata: Metadata
    warnings: list[str] | None = None


class PulseEndpoints:
    """Two paths, same behaviour; only their options and one status differ."""

    def __init__(self, transcriber: Transcriber, jobs: JobEndpoints) -> None:
        self._transcriber = transcriber
        self._jobs = jobs

    async def get_text(self, request: Request) -> Response:
        """Transcribe audio: raw, in a form, or behind a URL. Options are query parameters."""
        return await self._answer(request, options.PULSE, too_large=400)

    async def stt(self, request: Request) -> Response:
        """Transcribe audio, by the unified path: `model=pulse` and the options are query parameters."""
        return await self._answer(request, options.STT, too_large=413)

    async def _answer(self, request: Request, table: Mapping[str, Option], *, too_large: Literal[400, 413]) -> Response:
        here = self._transcriber
        async with here.visit(request) as visit:
            asked = options.query_pairs(request.scope["query_string"])
            wanted = options.parse_options(table, asked)
            visit.features += options.features(table, wanted)
            here.language(visit, wanted["language"])
            here.check_speakers(diarize=wanted["diarize"])
            webhook = await self._webhook(wanted)
            try:
                async with here.admitted(visit), here.received(request) as (body, spool):
                    _refuse_options_in(body, table)
                    asked += body.fields
                    wanted = options.parse_options(table, asked)
                    visit.features = list(options.features(table, wanted))
                    if webhook is not None:
                        return await self._jobs.accept(
                            visit, webhook, body, spool, dialect="pulse", table=table, asked=asked, wanted=wanted
                        )
                    source = await here.source(
                        body, spool, encoding=wanted["encoding"], sample_rate=wanted["sample_rate"]
                    )
                    answer = await pulse_json(here, visit, source, wanted)
            except BodyTooLarge as error:
                if too_large == 400:
                    raise BadRequest(error.message, code=error.code) from None
                raise
        return Response(answer, media_type="application/json", headers={"x-checkpoint": visit.checkpoint})

    async def _webhook(self, wanted: Mapping[str, Any]) -> Webhook | None:
        url, extra = wanted["webhook_url"], wanted["webhook_extra"]
        if url is None:
            return None
        extra = None if extra is None else extra_json(extra)
        return await self._jobs.check(url, "webhook_url", method=wanted["webhook_method"], extra=extra)


async def pulse_json(here: Transcriber, visit: Visit, source: Source, wanted: Mapping[str, Any]) -> str:
    """Transcribe `source` in the visit's language, and answer as the Pulse paths do."""
    transcript = await here.transcript(
        visit, source, words=wanted["word_timestamps"], diarize=wanted["diarize"], keywords=wanted["keywords"]
    )
    return pulse_answer(visit, transcript, source, await wording(transcript, wanted)).model_dump_json(
        exclude_unset=True
    )


def pulse_answer(visit: Visit, transcript: Transcript, source: Source, said: Wording) -> PulseAnswer:
    """The answer's body."""
    done = transcript.done
    metadata = Metadata(
        duration=round(done.duration, 3),
        fileSize=source.size,
        processing_time_ms=round(transcript.seconds * 1000, 1),
        rtfx=transcript.rtfx,
        num_chunks=done.windows,
    )
    if source.filename is not None:
        metadata.filename = source.filename
    answer = PulseAnswer(
        status="success",
        transcription=said.text,
        words=said.words,
        utterances=said.utterances,
        language=done.language,
        request_id=visit.request_id,
        metadata=metadata,
    )
    if said.warnings:
        answer.warnings = said.warnings
    return answer


def _refuse_options_in(body: Body, table: Mapping[str, Option]) -> None:
    for name, _ in body.fields:
        if name in table and name not in options.PULSE_BODY:
            raise BadRequest(f"{name} is a query parameter on this path; move it from the body to the URL.", param=name)
