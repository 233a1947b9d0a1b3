"""The served OpenAPI document is true: schemathesis finds no disagreement, whatever it sends."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import httpx
import jsonschema
import numpy as np
import pytest
import schemathesis
from api_rig import AGGREGATOR, LANGUAGES, PATIENCE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

pytest_plugins = ["api_pack"]


def tone() -> bytes:
    """A tenth of a second of sound, quick to transcribe; Ogg Opus, because every `encoding` can be said of it."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        samples = (np.sin(np.arange(4800) / 24) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


TONE = tone()


class Store(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(TONE)))
        self.end_headers()
        self.wfile.write(TONE)

    def log_message(self, *_arguments): ...


@pytest.fixture(scope="module")
def document(pack):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Where the document says "audio" or "url", valid data is real audio and a URL that has some.
    url = f"http://127.0.0.1:{server.server_address[1]}/tone.ogg"
    schemathesis.openapi.format("binary", st.just(TONE))
    schemathesis.openapi.format("uri", st.just(url))
    for media in ("application/octet-stream", "audio/*"):
        schemathesis.openapi.media_type(media, st.just(TONE))
    yield schemathesis.openapi.from_url(f"{pack.api.url}/openapi.json", config=SchemathesisConfig())
    server.shutdown()
    server.server_close()


OPERATIONS = [
    ("POST", "/waves/v1/pulse/get_text"),
    ("POST", "/waves/v1/stt/"),
    ("POST", "/waves/v1/stt"),
    ("POST", "/v1/listen"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("GET", "/waves/v1/jobs/{request_id}"),
    ("GET", "/waves/v1/stt/live/{session_id}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]


def test_every_operation_of_the_document_is_tried_here(document):
    served = {(each.ok().method.upper(), each.ok().path) for each in document.get_all_operations()}
    assert served == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_document_promises_is_what_happens(pack, document, method, path, mode):
    operation = document[path][method]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case):
        if isinstance(case.body, dict) and case.query:
            # What the document has no words for: an option goes into the query or into the body, not both.
            case.query = {name: value for name, value in case.query.items() if name not in case.body}
        case.call_and_validate(headers=pack.headers, timeout=PATIENCE)

    try:
        holds()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # an operation that takes nothing can't be given anything wrong
        assert method == "GET"


def test_the_document_names_this_packs_languages_and_models(pack):
    served = httpx.get(f"{pack.api.url}/openapi.json", trust_env=False).json()
    parameters = served["paths"]["/waves/v1/pulse/get_text"]["post"]["parameters"]
    language = next(each for each in parameters if each["name"] == "language")["schema"]
    assert set(language["enum"]) == {*LANGUAGES, AGGREGATOR}
    form = served["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    assert "indic-multi" in form["properties"]["model"]["enum"]
    assert "x-loaded" not in str(served)
    handshake = served["x-websockets"]["/waves/v1/stt/live"]["parameters"]
    assert {each["name"] for each in handshake} >= {"model", "language", "eou_timeout_ms", "vad_events"}


def test_the_document_says_which_options_come_later(pack):
    served = httpx.get(f"{pack.api.url}/openapi.json", trust_env=False).json()
    parameters = served["paths"]["/waves/v1/pulse/get_text"]["post"]["parameters"]
    later = {each["name"] for each in parameters if "Not available in this version" in each["description"]}
    assert later == set()
    for each in parameters:
        jsonschema.Draft202012Validator.check_schema(each["schema"])
