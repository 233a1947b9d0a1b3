"""The signed licence, its validation as a server sees it, and the usage journal."""

from babelrack.licensing.document import License, LicenseError
from babelrack.licensing.gate import GateSettings, LicenseGate, LicenseState
from babelrack.licensing.messages import UsageRecord, Validation
from babelrack.licensing.usage import JournalError, UsageJournal

__all__ = [
    "GateSettings",
    "JournalError",
    "License",
    "LicenseError",
    "LicenseGate",
    "LicenseState",
    "UsageJournal",
    "UsageRecord",
    "Validation",
]
