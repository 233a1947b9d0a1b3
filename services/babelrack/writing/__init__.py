"""The written form of a transcript: punctuation, capitals, numerals, redaction. It knows no server and no engine."""

from babelrack.writing.form import Form, Written, unfinished, write
from babelrack.writing.lexicon import UNSPACED
from babelrack.writing.numbering import Numbering
from babelrack.writing.numerals import NUMERAL_LANGUAGES
from babelrack.writing.tail import settled
from babelrack.writing.transcript import Word

__all__ = [
    "NUMERAL_LANGUAGES",
    "UNSPACED",
    "Form",
    "Numbering",
    "Word",
    "Written",
    "settled",
    "unfinished",
    "write",
]
