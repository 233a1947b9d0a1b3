"""What is wrong with a pack, a site or a table of routes: one sentence a fault, and all of them at once."""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

SHOWN_CHARACTERS: Final = 60

# What pydantic's kinds of error mean to whoever wrote the file.
_FORMS: Final[Mapping[str, str]] = {
    "missing": "is missing; add it: {meaning}",
    "invalid_key": "is not text; write a field's name, in quotes if YAML reads it as something else",
    "literal_key": "is not a field here; write {expected}",
    "literal_error": "is {value}; write {expected}",
    "too_short": "is empty; list at least {min_length}: {meaning}",
    "too_long": "lists {actual_length}; keep at most {max_length}",
    "greater_than_equal": "is {value}; write {ge} or more",
    "less_than_equal": "is {value}; write {le} or less",
    "int_type": "is {value}; write a whole number: {meaning}",
    "string_type": "is {value}; write text: {meaning}",
    "boolean_for_text": "is {value}: YAML reads an unquoted no, off, yes or on as one; put the text in quotes",
    "number_for_text": "is {value}, which YAML reads as a number; put it in quotes",
    "tuple_type": "is {value}; write a list: {meaning}",
    "dict_type": "is {value}; write a mapping: {meaning}",
    "model_type": "is {value}; write a mapping of fields: {meaning}",
}


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong: `field` as the file has it (`checkpoints[1].sha256`), `message` says the rest."""

    field: str
    message: str
    file: str | None = None

    def __str__(self) -> str:
        where = [part for part in (self.file, self.field) if part]
        return f"{': '.join(where)} {self.message}" if self.field else ": ".join([*where, self.message])


class PackError(Exception):
    """A pack, a site or routes that can't be used; `faults` has every reason, `str()` one line each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(dict.fromkeys(faults))
        super().__init__("\n".join(map(str, self.faults)))

    def in_file(self, file: str) -> PackError:
        """The same faults, with the file's name on those that had none."""
        return PackError(replace(fault, file=fault.file or file) for fault in self.faults)


def shown(value: object) -> str:
    """A value as a sentence shows it: quoted, on one line, and never longer than a line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    try:
        text = ascii(value) if isinstance(value, bytes) else repr(value)
    except ValueError:  # an integer too long for Python to print
        return "a number with thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    matches = get_close_matches(name[:64].lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def schema_faults(model: type[BaseModel], error: ValidationError) -> Iterator[Fault]:
    """Every error of a pydantic validation, as faults."""
    for details in error.errors(include_url=False):
        location = details["loc"]
        if details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"]:
            continue  # pydantic counts only the items that are right, and those that aren't have their own fault
        owner, field = _owner(model, location)
        yield Fault(_dotted(location), _sentence(details, owner, field))


def _sentence(details: ErrorDetails, owner: type[BaseModel] | None, field: FieldInfo | None) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown(str(details["loc"][-1]), owner.model_fields if owner else {})
    if kind == "literal_error" and details["loc"][-1] == "[key]":
        kind = "literal_key"
    if kind == "string_type":
        kind = "boolean_for_text" if isinstance(value, bool) else kind
        kind = "number_for_text" if isinstance(value, (int, float)) and not isinstance(value, bool) else kind
    meaning = _lower(field.description or "") if field else ""
    form = _FORMS.get(kind, "is {value}; correct it: {meaning}")
    return form.format_map({**context, "value": shown(value), "meaning": meaning}).removesuffix(": ")


def _unknown(name: str, known: Iterable[str]) -> str:
    known = list(known)
    meant = nearest(name, known)
    fix = f"did you mean {meant!r}?" if meant else f"the fields here are {', '.join(known)}"
    return f"is not a field here; {fix}"


def _lower(text: str) -> str:
    text = text.rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _dotted(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        if part == "[key]":
            continue
        text = str(part)
        text = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
        text = text if text.isprintable() else ascii(text)[1:-1]
        path += f"[{part}]" if isinstance(part, int) else f".{text}" if path else text
    return path


def _owner(model: type[BaseModel], location: Sequence[int | str]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model that the last named part of a location belongs to, and that part's field if the model has it."""
    owner: type[BaseModel] | None = model
    field: FieldInfo | None = None
    keyed = False
    for part in location:
        if isinstance(part, int) or part == "[key]":
            continue
        if keyed:  # the part is a mapping's key, not a field
            keyed = False
            continue
        if field is not None:
            owner = _nested(field.annotation)
            field = None
        if owner is None or part not in owner.model_fields:
            return owner, None
        field = owner.model_fields[part]
        keyed = _is_mapping(field.annotation)
    return owner, field


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _nested(argument))), None)


def _is_mapping(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(map(_is_mapping, get_args(annotation)))
    return get_origin(annotation) is dict
