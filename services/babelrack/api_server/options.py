"""The options of a request: one table says what is parsed, what is refused, and what the OpenAPI document shows.

A bad value is a 400 with one sentence that names the option and what it takes. An option that this version does
not have is refused by name; its default is accepted, because clients send defaults. Unknown names are ignored, as
HTTP has it; an option that is given twice is refused, because a gateway in front may have routed by the other one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from babelrack.api_server.errors import BadRequest
from babelrack.api_server.jobs.webhook import METHODS
from babelrack.pairing.messages import HIGHEST_INTENSIFIER, LONGEST_KEYWORD, MOST_KEYWORD_BYTES, MOST_KEYWORDS
from babelrack.writing import NUMERAL_LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Schema = dict[str, Any]

_MOST_PARAMETERS = 64
_LANGUAGE = re.compile(r"[a-z][a-z0-9_-]{1,31}")
_INTEGER = re.compile(r"[0-9]{1,9}")
_INTENSIFIER = re.compile(r"(10(\.0{1,9})?|[0-9](\.[0-9]{1,9})?)")
_NO_PHRASE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff\[\]{}"]')
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{0,400})?([eE][+-]?[0-9]{1,3})?")

ENCODINGS = ("linear16", "linear32", "alaw", "mulaw", "opus", "ogg_opus")
LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: how its text becomes a value, and how the OpenAPI document shows it."""

    name: str
    parse: Callable[[str], Any]
    schema: Schema
    description: str
    default: Any = None
    required: bool = False
    repeated: bool = False  # may be given several times; its value is a list
    feature: bool = False  # counted with usage when it differs from the default

    def parameter(self) -> Schema:
        """The option as an OpenAPI query parameter."""
        return {
            "name": self.name,
            "in": "query",
            "required": self.required,
            "description": self.description,
            "schema": self.schema,
        }


def shown(value: str) -> str:
    """A client's value as an error message repeats it: short and without control characters."""
    return repr(value if len(value) <= 40 else value[:40] + "…")


def flag(name: str, description: str, *, default: bool, feature: bool = False) -> Option:
    """`true` or `false`, spelled exactly so."""

    def parse(value: str) -> bool:
        if value not in ("true", "false"):
            raise BadRequest(f"{name} takes true or false, not {shown(value)}.", param=name)
        return value == "true"

    schema = {"type": "string", "enum": ["true", "false"], "default": "true" if default else "false"}
    return Option(name=name, parse=parse, schema=schema, description=description, default=default, feature=feature)


def later_text(name: str, description: str, *, default: str = "") -> Option:
    """An option that is not available in this version unless it has its default value."""

    def parse(value: str) -> str:
        if value != default:
            raise _not_available(name)
        return value

    return Option(
        name=name,
        parse=parse,
        schema={"type": "string", "enum": [default]},
        description=_later(description),
        default=default,
    )


def choice(
    name: str, values: tuple[str, ...], description: str, *, default: str | None = None, required: bool = False
) -> Option:
    """One of `values`."""

    def parse(value: str) -> str:
        if value not in values:
            raise BadRequest(f"{name} takes {one_of(values)}, not {shown(value)}.", param=name)
        return value

    schema: Schema = {"type": "string", "enum": list(values)}
    if default is not None:
        schema["default"] = default
    return Option(name=name, parse=parse, schema=schema, description=description, default=default, required=required)


def integer(name: str, lowest: int, highest: int, description: str, *, default: int) -> Option:
    """A whole number from `lowest` to `highest`."""

    def parse(value: str) -> int:
        if not _INTEGER.fullmatch(value) or not lowest <= int(value) <= highest:
            raise BadRequest(f"{name} takes a whole number from {lowest} to {highest}, not {shown(value)}.", param=name)
        return int(value)

    schema = {"type": "integer", "minimum": lowest, "maximum": highest, "default": default}
    return Option(name=name, parse=parse, schema=schema, description=description, default=default)


def number(name: str, lowest: float, highest: float, description: str, *, default: float) -> Option:
    """A decimal number from `lowest` to `highest`."""

    def parse(value: str) -> float:
        if not _NUMBER.fullmatch(value) or not lowest <= float(value) <= highest:
            raise BadRequest(f"{name} takes a number from {lowest:g} to {highest:g}, not {shown(value)}.", param=name)
        return float(value)

    schema = {"type": "number", "minimum": lowest, "maximum": highest, "default": default}
    return Option(name=name, parse=parse, schema=schema, description=description, default=default)


def one_number(name: str, values: tuple[int, ...], description: str, *, default: int) -> Option:
    """One of a few whole numbers."""

    def parse(value: str) -> int:
        if not _INTEGER.fullmatch(value) or int(value) not in values:
            raise BadRequest(f"{name} takes {one_of(map(str, values))}, not {shown(value)}.", param=name)
        return int(value)

    schema = {"type": "integer", "enum": list(values), "default": default}
    return Option(name=name, parse=parse, schema=schema, description=description, default=default)


def matching(name: str, pattern: str, takes: str, description: str) -> Option:
    """Text that the whole of `pattern` matches; a message says what it `takes`."""
    expression = re.compile(pattern)

    def parse(value: str) -> str:
        if not expression.fullmatch(value):
            raise BadRequest(f"{name} takes {takes}, not {shown(value)}.", param=name)
        return value

    schema = {"type": "string", "pattern": f"^{pattern}$"}
    return Option(name=name, parse=parse, schema=schema, description=description)


def text(name: str, longest: int, description: str) -> Option:
    """Free text of at most `longest` characters."""

    def parse(value: str) -> str:
        if len(value) > longest:
            raise BadRequest(f"{name} takes at most {longest} characters, not {len(value)}.", param=name)
        return value

    return Option(name=name, parse=parse, schema={"type": "string", "maxLength": longest}, description=description)


def keywords() -> Option:
    """Phrases to expect, each with an intensifier: a tuple of both."""

    def parse(value: str) -> tuple[tuple[str, float], ...]:
        if not value:
            return ()
        entries = value.split(",")
        if len(entries) > MOST_KEYWORDS:
            raise refused(f"takes at most {MOST_KEYWORDS:,} phrases, not {len(entries):,}.")
        found = tuple(map(entry, entries))
        if sum(len(phrase.encode()) for phrase, _ in found) > MOST_KEYWORD_BYTES:
            raise refused(f"takes phrases of at most {MOST_KEYWORD_BYTES // 1024} KiB together; send fewer.")
        return found

    def entry(text: str) -> tuple[str, float]:
        phrase, colon, intensifier = text.partition(":")
        phrase, intensifier = phrase.strip(" "), intensifier.strip(" ")
        if not phrase:
            raise refused(f"has an empty phrase at {shown(text)}; write Blackwell:1,Jensen Huang:2.")
        if len(phrase) > LONGEST_KEYWORD:
            raise refused(f"takes phrases of at most {LONGEST_KEYWORD} characters, not {len(phrase)}: {shown(phrase)}.")
        if _NO_PHRASE.search(phrase):
            raise refused(f"takes phrases without control characters, brackets and quotes, not {shown(phrase)}.")
        if not colon:
            return phrase, 1.0
        if not _INTENSIFIER.fullmatch(intensifier) or float(intensifier) > HIGHEST_INTENSIFIER:
            raise refused(
                f"takes a number from 0 to {HIGHEST_INTENSIFIER:g} after a phrase's colon, not {shown(intensifier)}; "
                "a phrase itself has no colon."
            )
        return phrase, float(intensifier)

    def refused(fault: str) -> BadRequest:
        return BadRequest(f"keywords {fault}", param="keywords")

    other = r',:\x00-\x1f\x7f\[\]{}"'
    one = rf" *[^ {other}][^{other}]{{0,{LONGEST_KEYWORD - 1}}} *(: *{_INTENSIFIER.pattern} *)?"
    return Option(
        name="keywords",
        parse=parse,
        schema={"type": "string", "pattern": f"^({one}(,{one})*)?$", "default": ""},
        description=(
            "Phrases to expect, with commas between them, each with a colon and an intensifier if it isn't 1: "
            f"`Blackwell:1,Jensen Huang:2`. At most {MOST_KEYWORDS:,} phrases of {LONGEST_KEYWORD} characters; "
            f"intensifiers from 0, without effect, to {HIGHEST_INTENSIFIER:g}; 1 to 3 are advised."
        ),
        default=(),
        feature=True,
    )


def webhook(name: str) -> Option:
    """A URL to deliver the answer to; empty is none."""
    option = text(name, 8192, "Answer at once, and deliver the transcript to this http(s) URL when it is there.")
    schema = {**option.schema, "format": "uri"}
    return replace(option, parse=lambda value: option.parse(value) or None, schema=schema, feature=True)


def language(description: str) -> Option:
    """A language's code or an aggregator; whether a checkpoint covers it is for later to say."""

    def parse(value: str) -> str:
        if not _LANGUAGE.fullmatch(value):
            raise BadRequest(
                f"language takes a code such as hi, or an aggregator such as multi-indic, not {shown(value)}.",
                param="language",
            )
        return value

    # `x-loaded` is replaced by what the model server has loaded when the document is served.
    schema = {"type": "string", "pattern": f"^{_LANGUAGE.pattern}$", "x-loaded": "languages"}
    return Option(name="language", parse=parse, schema=schema, description=description)


def one_of(values: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *most, last = values
    return f"{', '.join(most)} or {last}" if most else last


def _not_available(name: str) -> BadRequest:
    return BadRequest(f"{name} is not available in this version.", param=name, code="NOT_AVAILABLE")


def _later(description: str) -> str:
    return f"{description} Not available in this version: anything but the default is refused."


def diarize(filled: str) -> Option:
    """Who speaks."""
    description = f"`true` says who speaks, where {filled}; refused where the deployment has no speaker model."
    return flag("diarize", description, default=False, feature=True)


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """The query string's names and values, in order."""
    try:
        return parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise BadRequest(f"the query string has more than {_MOST_PARAMETERS} parameters.") from None


def parse_options(table: Mapping[str, Option], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """A value for each option of `table`, from `pairs` or its default.

    Raises:
        BadRequest: for a bad value, an option given twice, or a required one that is missing.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        option = table.get(name)
        if option is None:
            continue
        if option.repeated:
            values.setdefault(name, []).append(option.parse(value))
            continue
        if name in values:
            raise BadRequest(f"{name} is given twice; give it once.", param=name)
        values[name] = option.parse(value)
    for name, option in table.items():
        if name not in values:
            if option.required:
                raise BadRequest(f"{name} is missing; {option.description}", param=name)
            values[name] = option.default
    return values


def features(table: Mapping[str, Option], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that were set to something else than their default, for the usage journal."""
    return tuple(name for name, option in table.items() if option.feature and values[name] != option.default)


def _table(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


WRITTEN_FORM = (
    flag(
        "format",
        "`false` sets punctuate, capitalize and itn_normalize (where there is one) to false.",
        default=True,
        feature=True,
    ),
    flag("punctuate", "`false` takes out `. , ? !` and the script's own marks.", default=True, feature=True),
    flag("capitalize", "`false` lowercases the text.", default=True, feature=True),
)
SOURCE = (
    language("A language's code, or the pack's aggregator to detect among its languages. Default: the aggregator."),
    choice(
        "encoding",
        ENCODINGS,
        "Of headerless audio. Without it the container is recognised by its content.",
    ),
    integer("sample_rate", LOWEST_RATE, HIGHEST_RATE, "Hz, of headerless audio.", default=16_000),
)

REWRITTEN = (
    flag(
        "itn_normalize",
        f"`true` writes spoken numbers, dates and currency in numerals, in {', '.join(NUMERAL_LANGUAGES)}.",
        default=False,
        feature=True,
    ),
    flag(
        "redact_pii",
        "`true` replaces phone numbers, e-mail addresses, account numbers, Aadhaar and PAN by tokens such as "
        "`[PHONENUMBER_1]`; names and postal addresses are not found.",
        default=False,
        feature=True,
    ),
    flag(
        "redact_pci",
        "`true` replaces card and account numbers, CVV and expiry dates by tokens such as `[CARDNUMBER_1]`.",
        default=False,
        feature=True,
    ),
)

PULSE = _table(
    *SOURCE,
    *WRITTEN_FORM,
    flag("word_timestamps", "`true` fills words[] and utterances[].", default=False, feature=True),
    diarize("`word_timestamps` fills words[] and utterances[]"),
    *REWRITTEN,
    keywords(),
    webhook("webhook_url"),
    choice("webhook_method", METHODS, "How to deliver it.", default="POST"),
    text("webhook_extra", 4096, "JSON or text that is delivered with it, under this name."),
)

# More keywords than a request line holds come with the body instead.
PULSE_BODY = _table(keywords())

_MODEL = choice("model", ("pulse",), "the right value is pulse.", required=True)

STT = _table(_MODEL, *PULSE.values())

LISTEN = _table(
    *SOURCE,
    *WRITTEN_FORM,
    flag("timestamps", "`true` fills words[].", default=False, feature=True),
    diarize("`timestamps` fills words[]"),
    keywords(),
    webhook("callback_url"),
)

LIVE = _table(
    language("A language's code, or the pack's aggregator to detect among its languages. Default: the aggregator."),
    choice(
        "encoding",
        ENCODINGS,
        "Of the audio: bare mono samples, or Opus in Ogg, WebM or MP4, or as bare packets.",
        default="linear16",
    ),
    one_number("sample_rate", (8_000, 16_000, 22_050, 24_000, 44_100, 48_000), "Hz, of samples.", default=16_000),
    *WRITTEN_FORM,
    flag("word_timestamps", "`true` fills words[] of finals.", default=False, feature=True),
    flag("sentence_timestamps", "`true` fills utterances[] of finals.", default=False, feature=True),
    flag("full_transcript", "`true` adds all that was said so far to each event.", default=False, feature=True),
    flag("vad_events", "`true` tells when somebody begins and stops to speak.", default=False, feature=True),
    flag("vad", "The same as vad_events.", default=False),
    flag("endpointing", "`false`: silence ends no utterance.", default=True, feature=True),
    integer("eou_timeout_ms", 100, 10_000, "Silence that ends an utterance, in ms.", default=800),
    flag("finalize_on_words", "`false`: neither words nor length end an utterance.", default=True, feature=True),
    replace(
        integer("max_words", 1, 10_000, "So many words end an utterance, with finalize_on_words.", default=1),
        default=None,
        schema={"type": "integer", "minimum": 1, "maximum": 10_000},
        feature=True,
    ),
    diarize("`word_timestamps` fills words[] and `sentence_timestamps` utterances[]"),
    *REWRITTEN,
    keywords(),
    matching(
        "external_session_id",
        r"[A-Za-z0-9_.-]{1,128}",
        "1 to 128 characters of A-Z a-z 0-9 _ . -",
        "Kept with the usage of this session, and never echoed.",
    ),
)

LIVE_STT = _table(_MODEL, *LIVE.values())

LIVE_LISTEN = _table(*LIVE.values(), flag("timestamps", "The same as word_timestamps.", default=False, feature=True))

RESUMED = _table(
    matching("session_id", r"[0-9a-f]{32}", "the id that a session's events carry", "Go on with this session."),
    integer("received", 0, 999_999_999, "How many events of that session have arrived.", default=0),
    number("audio_from", 0, 1e7, "The earliest second of its audio that can be sent again.", default=0.0),
)


GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")


def _granularities(*values: str) -> tuple[Option, ...]:
    description = "What has times in verbose_json; with word, srt and vtt have a cue for each."
    return tuple(replace(choice(name, values, description), default=[], repeated=True) for name in GRANULARITIES)


def _model() -> Option:
    model = text("model", 128, "name a checkpoint, the pack, whisper-1 or pulse: the language decides what serves.")
    return replace(model, required=True, schema={**model.schema, "x-loaded": "models"})


OPENAI = _table(
    _model(),
    language("The language's code. Default: the pack's aggregator detects it."),
    text("prompt", 16_384, "Text that the transcript follows on from; its last 223 tokens count."),
    choice("response_format", ("json", "text", "srt", "verbose_json", "vtt"), "Of the answer.", default="json"),
    number("temperature", 0, 1, "0 is greedy, and falls back to sampling where the text looks wrong.", default=0.0),
    *_granularities("word", "segment"),
    flag("stream", "`true` answers with server-sent events, for json and text.", default=False, feature=True),
    choice("chunking_strategy", ("auto",), "Long audio is always cut at silences.", default="auto"),
    later_text("include[]", "Log-probabilities."),
    later_text("known_speaker_names[]", "Speakers."),
    later_text("known_speaker_references[]", "Speakers."),
    later_text("keywords[]", "Words to listen for."),
)

TRANSLATIONS = OPENAI | _table(*_granularities("segment"))
