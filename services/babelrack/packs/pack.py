"""A language pack: the checkpoints that one model server holds, and what they need to run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from babelrack.packs.document import parse_document, read_document
from babelrack.packs.faults import Fault, PackError, schema_faults, shown
from babelrack.packs.languages import (
    AGGREGATOR_MAX_LENGTH,
    AGGREGATOR_PATTERN,
    LANGUAGES,
    family,
    invalid_aggregator,
    is_aggregator,
    is_language,
    unknown_language,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import ModelWrapValidatorHandler

    from babelrack.packs.site import Site

MAX_CHECKPOINTS: Final = 3
CONCURRENCY: Final[Mapping[int, int]] = {1: 128, 2: 64, 3: 48}
"""Requests that each checkpoint decodes at a time, by the number of checkpoints in the pack."""

SCHEMES: Final = ("file", "http", "https", "s3", "hf")
STRICT: Final = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

_PACK_NAME: Final = r"^[a-z][a-z0-9_]{0,30}$"
_CHECKPOINT_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
_SHA256: Final = r"^[0-9a-fA-F]{64}$"
_HUB_LOCATION: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+(/[\w.-]+)*)?", re.ASCII)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


def _checked(
    accept: Callable[[str], bool], fix: Callable[[str], str], schema: dict[str, Any]
) -> tuple[AfterValidator, WithJsonSchema]:
    def check(value: str) -> str:
        if not accept(value):
            raise ValueError(fix(value))
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string"} | schema)


def _matching(pattern: str, form: str) -> tuple[AfterValidator, WithJsonSchema]:
    # Not `Field(pattern=…)`: `$` there would let a closing line break pass, and the sentence would show a regex.
    expression = re.compile(pattern.removeprefix("^").removesuffix("$"))
    return _checked(
        lambda value: expression.fullmatch(value) is not None,
        lambda value: f"is {shown(value)}; write {form}",
        {"pattern": pattern},
    )


def url_fault(url: str, *, relative_files: bool = False) -> str | None:
    """Why a checkpoint can't come from `url`, as a sentence without its subject; None for a good one."""
    known = f"write one that starts with {', '.join(f'{scheme}:' for scheme in SCHEMES)}"
    fault = None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"is {shown(url)}, which is not a URL ({error}); {known}"
    if not url.isascii() or not url.isprintable() or " " in url:
        fault = f"is {shown(url)}, which has a character that a URL can't hold; percent-encode it"
    elif parts.scheme not in SCHEMES:
        fault = f"is {shown(url)}, which has no scheme that can be fetched; {known}"
    elif "#" in url:
        fault = f"is {shown(url)}; leave out the part from '#' on, the fields of the pack file go there"
    elif "@" in parts.netloc:
        fault = "carries a user name or a password; take it out, credentials don't belong in a file that is shared"
    elif form := _location_form(parts, url, relative_files=relative_files):
        fault = f"is {shown(url)}; write {form}"
    return fault


def _location_form(parts: SplitResult, url: str, *, relative_files: bool) -> str | None:
    """How a URL of this scheme is written, when it isn't."""
    path = unquote(parts.path)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not path or parts.query or "\0" in path:
            return "file:///absolute/path, with a '?' in a name as %3F"
        if not path.startswith("/") and not relative_files:
            return "file:///absolute/path, or give a relative one in the site's checkpoint_sources"
    elif parts.scheme == "hf":
        location = url.partition(":")[2].removeprefix("//")
        if _HUB_LOCATION.fullmatch(location) is None or ".." in location:
            return "hf:owner/repository or hf:owner/repository@revision"
    elif parts.scheme == "s3":
        if _BUCKET.fullmatch(parts.netloc) is None or not path.strip("/") or parts.query:
            return "s3://bucket/key"
    elif not parts.hostname or not path.strip("/"):
        return f"{parts.scheme}://host/path"
    return None


def _check_url(url: str) -> str:
    if fault := url_fault(url):
        raise ValueError(fault)
    return url


LanguageCode = Annotated[
    str, *_checked(is_language, lambda code: f"is wrong: {unknown_language(code)}", {"enum": list(LANGUAGES)})
]
Aggregator = Annotated[
    str,
    *_checked(
        is_aggregator,
        lambda code: f"is wrong: {invalid_aggregator(code)}",
        {"pattern": AGGREGATOR_PATTERN, "maxLength": AGGREGATOR_MAX_LENGTH},
    ),
]
PackName = Annotated[
    str, *_matching(_PACK_NAME, "a lower-case letter, then at most 30 lower-case letters, digits and underscores")
]
CheckpointName = Annotated[
    str, *_matching(_CHECKPOINT_NAME, "at most 63 lower-case letters, digits, '.', '_' and '-', such as 'indic-multi'")
]
Sha256 = Annotated[
    str, *_matching(_SHA256, "the 64 hexadecimal digits that sha256sum prints"), AfterValidator(str.lower)
]
CheckpointUrl = Annotated[
    str,
    AfterValidator(_check_url),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(SCHEMES)}):[^#\\s]+$"}),
]
Port = Annotated[int, Field(ge=1, le=65535)]
Role = Literal["dedicated", "multilingual"]


class Checkpoint(BaseModel):
    """One checkpoint of a pack: a Whisper model in safetensors, and the languages it is for."""

    model_config = STRICT

    name: CheckpointName = Field(description="The checkpoint's name, in metrics, health and the X-Checkpoint header.")
    url: CheckpointUrl = Field(
        description="Where it comes from: file:///path, http(s)://…, s3://bucket/key or hf:owner/repository@revision; "
        "a directory, or a .tar, .tar.zst or .zip archive."
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="SHA-256 of the archive, or of model.safetensors when the source is a directory: "
        "64 hexadecimal digits in quotes.",
    )
    languages: tuple[LanguageCode, ...] = Field(
        min_length=1, strict=False, description="The languages it is for, as Whisper's codes, such as [hi, en]."
    )
    role: Role = Field(
        description="dedicated: first choice for its languages. multilingual: serves every language it lists that "
        "no dedicated checkpoint serves."
    )

    @property
    def pinned(self) -> bool:
        """Whether what the URL names can't change unnoticed: a checksum, or a commit of a repository."""
        if self.sha256 or self.url.startswith("file:"):
            return True
        return self.url.startswith("hf:") and re.search(r"@[0-9a-f]{40}$", self.url) is not None


class Host(BaseModel):
    """What the host of one replica must have."""

    model_config = STRICT

    gpus: int = Field(default=1, ge=0, le=16, description="GPUs for this pack's model server; 0 runs it on the CPU.")
    gpu_memory_gib: int = Field(default=0, ge=0, le=1024, description="Memory of each GPU, in GiB.")
    ram_gib: int = Field(default=8, ge=1, le=65536, description="Main memory, in GiB.")
    disk_gib: int = Field(default=20, ge=1, le=1048576, description="Free disk for checkpoints and logs, in GiB.")


class Ports(BaseModel):
    """The ports of one replica; two packs on one host need different ones."""

    model_config = STRICT

    api: Port = Field(default=7100, description="The API server's port, 1 to 65535.")
    model: Port = Field(default=2233, description="The model server's port, 1 to 65535; only the API server calls it.")
    metrics: Port = Field(default=9090, description="The port of the model server's metrics, 1 to 65535.")


class Canary(BaseModel):
    """A clip with known text, which a replica must transcribe before a roll goes on to the next one."""

    model_config = STRICT

    audio: str = Field(pattern=r"^[A-Za-z0-9._/-]{1,200}$", description="The clip's file, from the pack file's folder.")
    language: LanguageCode = Field(description="The language that it is sent with.")
    text: str = Field(min_length=1, max_length=2000, description="What is said in it.")
    max_word_error_rate: float = Field(
        default=0.3, ge=0, le=1, description="The share of words that may be wrong, 0 to 1."
    )


class Pack(BaseModel):
    """One deployment's languages and checkpoints, on one or more hosts.

    Raises `PackError`, with every fault, when it can't be right.
    """

    model_config = STRICT

    name: PackName = Field(
        description="The pack's name and its deployment's: a lower-case letter, then lower-case letters, digits and "
        "underscores, 31 characters at most. Its file is packs/<name>.yaml."
    )
    aggregator: Aggregator = Field(
        description="The code for 'find out which of this pack's languages it is', such as multi-indic; "
        "a request without a language means it."
    )
    checkpoints: tuple[Checkpoint, ...] = Field(
        min_length=1,
        max_length=MAX_CHECKPOINTS,
        strict=False,
        description="One to three checkpoints, side by side in one model server. Each decodes 128 requests at a time "
        "when it is alone, 64 when there are two and 48 when there are three.",
    )
    replicas: int = Field(default=1, ge=1, le=1000, description="How many hosts run this pack.")
    host: Host = Field(default=Host(), description="GPUs, memory and disk that each host of this pack must have.")
    ports: Ports = Field(default=Ports(), description="The ports that each replica listens on.")
    canary: Canary | None = Field(
        default=None,
        description="The clip that each replica must transcribe in a roll; none: the roll asks for health only.",
    )
    engine: Literal["babelrack"] = Field(default="babelrack", description="What decodes: Babelrack's own engine.")

    @model_validator(mode="wrap")
    @classmethod
    def _collect_every_fault(cls, data: Any, handler: ModelWrapValidatorHandler[Pack]) -> Pack:
        if isinstance(data, Pack):
            return data
        try:
            pack = handler(data)
        except ValidationError as error:
            # Contradictions between fields are looked for in what was written, so that one wrong field hides none.
            raise PackError([*schema_faults(cls, error), *_contradictions(data)]) from None
        if faults := [*_contradictions(pack.model_dump())]:
            raise PackError(faults)
        return pack

    @property
    def languages(self) -> tuple[str, ...]:
        """Every language that the pack serves, once each, in the order of the file."""
        return tuple(dict.fromkeys(code for checkpoint in self.checkpoints for code in checkpoint.languages))

    @property
    def concurrency(self) -> int:
        """Requests that each checkpoint decodes at a time."""
        return CONCURRENCY[len(self.checkpoints)]

    def checkpoint_for(self, language: str) -> Checkpoint | None:
        """The checkpoint that serves a language: a dedicated one, else the first multilingual one that lists it."""
        serving = [checkpoint for checkpoint in self.checkpoints if language in checkpoint.languages]
        dedicated = [checkpoint for checkpoint in serving if checkpoint.role == "dedicated"]
        return next(iter(dedicated or serving), None)

    def model_url(self, site: Site | None = None) -> str:
        """The model server's `MODEL_URL`: each checkpoint's URL or the site's source for it, its fields as fragment."""
        urls = []
        for checkpoint in self.checkpoints:
            url, sha256 = site.source(checkpoint) if site else (checkpoint.url, checkpoint.sha256)
            fields = {
                "name": checkpoint.name,
                "role": checkpoint.role,
                "languages": " ".join(checkpoint.languages),
            } | ({"sha256": sha256} if sha256 else {})
            urls.append(f"{url}#{urlencode(fields)}".replace(",", "%2C"))
        return ",".join(urls)

    def advice(self) -> list[str]:
        """What is allowed but probably not meant, one sentence each."""
        families = {family(code) for code in self.languages}
        advice = []
        if len(self.checkpoints) == MAX_CHECKPOINTS and len(families) == 1:
            advice.append(
                f"three checkpoints serve one language family only ({families.pop()}), {self.concurrency} requests "
                f"each; one multilingual checkpoint would serve {CONCURRENCY[1]} at a time and nearly triple the budget"
            )
        advice += [
            f"checkpoint {checkpoint.name} has neither a sha256 nor a commit in its URL, so what it loads may change"
            for checkpoint in self.checkpoints
            if not checkpoint.pinned
        ]
        return advice


def load_pack(path: Path) -> Pack:
    """The pack in a file; raises `PackError` with every fault of the file."""
    file = str(path)
    try:
        return _pack(read_document(path), path.stem)
    except PackError as error:
        raise error.in_file(file) from None


def parse_pack(content: bytes) -> Pack:
    """The pack in a YAML text; raises `PackError` with every fault of it."""
    return _pack(parse_document(content), None)


def json_schema() -> str:
    """The pack file's JSON Schema, for editors, as indented JSON with a closing line break."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Pack.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def file_url(path: Path) -> str:
    """The `file:` URL of an absolute path, with what a URL can't hold percent-encoded."""
    return "file://" + quote(path.as_posix(), safe="/")


def resolve_file_url(url: str, root: Path) -> str:
    """A `file:` URL with an absolute path, taken from `root` when it was relative; any other URL as it is."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        return url
    return file_url(Path(root, unquote(parts.path)))


def _pack(data: Any, stem: str | None) -> Pack:
    if not isinstance(data, dict):
        fault = Fault("", "the file holds no mapping; start with name:, aggregator: and checkpoints:")
        raise PackError([fault])
    faults = []
    name = data.get("name")
    if stem is not None and isinstance(name, str) and name != stem:
        faults.append(Fault("name", f"is {shown(name)}, but the file is {stem}.yaml; rename one of them"))
    try:
        pack = Pack.model_validate(data)
    except PackError as error:
        raise PackError([*error.faults, *faults]) from None
    if faults:
        raise PackError(faults)
    return pack


def _contradictions(data: Any) -> Iterator[Fault]:
    """Faults between fields, looked for in plain data of any shape."""
    if not isinstance(data, dict):
        return
    listed = data.get("checkpoints")
    names: dict[str, int] = {}
    dedicated: dict[str, str] = {}
    for index, checkpoint in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
        if not isinstance(checkpoint, dict):
            continue
        where, name = f"checkpoints[{index}]", checkpoint.get("name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            yield Fault(f"{where}.name", f"is {shown(name)} like checkpoints[{names[name]}]; give it another name")
        yield from _repeated_languages(checkpoint, where, dedicated)
    yield from _shared_ports(data.get("ports"))


def _repeated_languages(checkpoint: dict[Any, Any], where: str, dedicated: dict[str, str]) -> Iterator[Fault]:
    languages = checkpoint.get("languages")
    own: set[str] = set()
    for position, code in enumerate(languages if isinstance(languages, (list, tuple)) else ()):
        if not isinstance(code, str):
            continue
        here = f"{where}.languages[{position}]"
        if code in own:
            yield Fault(here, f"lists {shown(code)} a second time; take it out")
            continue
        own.add(code)
        if checkpoint.get("role") == "dedicated" and dedicated.setdefault(code, here) != here:
            yield Fault(
                here,
                f"is {shown(code)}, which {dedicated[code]} is dedicated to already; "
                "leave the language with one of the dedicated checkpoints",
            )


def _shared_ports(ports: Any) -> Iterator[Fault]:
    if not isinstance(ports, dict):
        return
    written = {name: field.default for name, field in Ports.model_fields.items()} | ports
    by_port: dict[int, str] = {}
    for name in Ports.model_fields:
        port = written[name]
        if type(port) is int and by_port.setdefault(port, name) != name:
            yield Fault(f"ports.{name}", f"is {shown(port)} like ports.{by_port[port]}; give each its own port")
