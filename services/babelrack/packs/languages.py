"""The languages that Whisper knows, the aggregators, and the sentences for a code that is neither.

Depends on nothing but the standard library, so that every server may import it.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# In the order of Whisper's language tokens; `yue` came with large-v3.
LANGUAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "en": "English",
        "zh": "Chinese",
        "de": "German",
        "es": "Spanish",
        "ru": "Russian",
        "ko": "Korean",
        "fr": "French",
        "ja": "Japanese",
        "pt": "Portuguese",
        "tr": "Turkish",
        "pl": "Polish",
        "ca": "Catalan",
        "nl": "Dutch",
        "ar": "Arabic",
        "sv": "Swedish",
        "it": "Italian",
        "id": "Indonesian",
        "hi": "Hindi",
        "fi": "Finnish",
        "vi": "Vietnamese",
        "he": "Hebrew",
        "uk": "Ukrainian",
        "el": "Greek",
        "ms": "Malay",
        "cs": "Czech",
        "ro": "Romanian",
        "da": "Danish",
        "hu": "Hungarian",
        "ta": "Tamil",
        "no": "Norwegian",
        "th": "Thai",
        "ur": "Urdu",
        "hr": "Croatian",
        "bg": "Bulgarian",
        "lt": "Lithuanian",
        "la": "Latin",
        "mi": "Maori",
        "ml": "Malayalam",
        "cy": "Welsh",
        "sk": "Slovak",
        "te": "Telugu",
        "fa": "Persian",
        "lv": "Latvian",
        "bn": "Bengali",
        "sr": "Serbian",
        "az": "Azerbaijani",
        "sl": "Slovenian",
        "kn": "Kannada",
        "et": "Estonian",
        "mk": "Macedonian",
        "br": "Breton",
        "eu": "Basque",
        "is": "Icelandic",
        "hy": "Armenian",
        "ne": "Nepali",
        "mn": "Mongolian",
        "bs": "Bosnian",
        "kk": "Kazakh",
        "sq": "Albanian",
        "sw": "Swahili",
        "gl": "Galician",
        "mr": "Marathi",
        "pa": "Punjabi",
        "si": "Sinhala",
        "km": "Khmer",
        "sn": "Shona",
        "yo": "Yoruba",
        "so": "Somali",
        "af": "Afrikaans",
        "oc": "Occitan",
        "ka": "Georgian",
        "be": "Belarusian",
        "tg": "Tajik",
        "sd": "Sindhi",
        "gu": "Gujarati",
        "am": "Amharic",
        "yi": "Yiddish",
        "lo": "Lao",
        "uz": "Uzbek",
        "fo": "Faroese",
        "ht": "Haitian Creole",
        "ps": "Pashto",
        "tk": "Turkmen",
        "nn": "Nynorsk",
        "mt": "Maltese",
        "sa": "Sanskrit",
        "lb": "Luxembourgish",
        "my": "Myanmar",
        "bo": "Tibetan",
        "tl": "Tagalog",
        "mg": "Malagasy",
        "as": "Assamese",
        "tt": "Tatar",
        "haw": "Hawaiian",
        "ln": "Lingala",
        "ha": "Hausa",
        "ba": "Bashkir",
        "jw": "Javanese",
        "su": "Sundanese",
        "yue": "Cantonese",
    }
)

# Families that one multilingual checkpoint commonly serves well together: by script and region as much as by descent,
# which is why the Dravidian languages stand with the Indo-Aryan ones.
_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "indic": "hi bn mr gu pa as ne sd si ur sa ta te kn ml",
        "romance": "es pt fr it ro ca gl oc la ht",
        "germanic": "en de nl sv da no nn is fo af yi lb",
        "slavic": "ru uk be pl cs sk sl hr bs sr mk bg",
        "baltic": "lt lv",
        "celtic": "cy br",
        "uralic": "fi et hu",
        "turkic": "tr az kk uz tk tt ba",
        "semitic": "ar he mt am",
        "iranian": "fa tg ps",
        "sinitic": "zh yue",
        "austronesian": "id ms tl jw su mg mi haw",
        "mainland southeast asian": "vi th lo km my bo",
        "african": "sw sn yo so ln ha",
    }
)
_FAMILY_OF: Final[Mapping[str, str]] = MappingProxyType(
    {code: family for family, codes in _FAMILIES.items() for code in codes.split()}
)

AGGREGATOR_PATTERN: Final = r"^multi-[a-z0-9]+(-[a-z0-9]+)*$"
AGGREGATOR_MAX_LENGTH: Final = 32
_AGGREGATOR: Final = re.compile(AGGREGATOR_PATTERN)
_CODE_BY_NAME: Final[Mapping[str, str]] = MappingProxyType({name.lower(): code for code, name in LANGUAGES.items()})


def is_language(code: str) -> bool:
    """Whether Whisper knows the language code, exactly as written (`hi`, not `HI` or `hi-IN`)."""
    return code in LANGUAGES


def is_aggregator(code: str) -> bool:
    """Whether the code has the form of an aggregator, `multi-…`: detect among a pack's languages."""
    return len(code) <= AGGREGATOR_MAX_LENGTH and _AGGREGATOR.fullmatch(code) is not None


def family(code: str) -> str:
    """The language's family, for advice on how to group languages; a language that stands alone is its own family."""
    return _FAMILY_OF.get(code, code)


def unknown_language(code: str) -> str:
    """Why `code` is not a language code and what to write instead, as one sentence without a full stop."""
    shown = code if len(code) <= 40 else code[:40] + "…"
    meant = _nearest(code)
    fix = f"write {meant!r} ({LANGUAGES[meant]})" if meant else "write a code such as 'hi', 'en' or 'es'"
    return f"{shown!r} is not a language code that Whisper knows; {fix}"


def invalid_aggregator(code: str) -> str:
    """Why `code` is not an aggregator and what to write instead, as one sentence without a full stop."""
    shown = code if len(code) <= 40 else code[:40] + "…"
    return (
        f"{shown!r} is not an aggregator; write 'multi-' and a name of lower-case letters and digits, "
        f"such as 'multi-indic' (at most {AGGREGATOR_MAX_LENGTH} characters)"
    )


def in_token_order(codes: Iterable[str]) -> list[str]:
    """The known codes among `codes`, once each, in the order of Whisper's language tokens."""
    wanted: Collection[str] = set(codes)
    return [code for code in LANGUAGES if code in wanted]


def _nearest(code: str) -> str | None:
    wanted = code[:40].strip().lower()
    if wanted in LANGUAGES:
        return wanted
    if wanted in _CODE_BY_NAME:
        return _CODE_BY_NAME[wanted]
    base = re.split(r"[-_]", wanted, maxsplit=1)[0]
    if base in LANGUAGES:
        return base
    names = get_close_matches(wanted, _CODE_BY_NAME, n=1, cutoff=0.75) if len(wanted) > 3 else []
    return _CODE_BY_NAME[names[0]] if names else None
