"""Verifiable AI inference: receipts whose evidence the caller chooses, verified offline.

The package is a house of rooms (see each room's docstring). The base install holds `core`,
`evidence` and `appraisal`: the offline verifier. Nothing is done at import.
"""

__version__ = "0.1.0"
