"""A fleet: packs on hosts of their own. Its claims by Terraform, its hosts by Ansible, and what is wrong with it."""


class FleetError(Exception):
    """Something of a fleet can't be done; the message is a sentence for the operator."""
