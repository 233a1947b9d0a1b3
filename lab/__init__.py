"""Throw-away on-prem hosts: systemd containers with sshd, for the demo, molecule and tests."""

from lab.faults import FAULTS
from lab.host import LabHost
from lab.laboratory import Lab
from lab.trouble import LabClash, LabError, LabUnavailable

__all__ = ["FAULTS", "Lab", "LabClash", "LabError", "LabHost", "LabUnavailable"]
