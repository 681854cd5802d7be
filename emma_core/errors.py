"""Errors a person can act on: what was found, what was expected, and the next command.

Library code raises these; only the command line turns them into one line and an exit status.
"""

from __future__ import annotations

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a JSON file into objects raises where it is damaged, or was made to do harm."""


class EmmaError(Exception):
    """Base of every error that emma-tasks raises on purpose; its text is one line for a person."""

    exit_code = 1


class UsageError(EmmaError):
    """The request itself cannot be carried out: an unknown name, options that exclude each other."""

    exit_code = 2


class DataError(EmmaError):
    """A data set, folder or label is not what it should be."""


class ImageError(DataError):
    """One image file cannot be read: missing, empty, truncated, not an image."""


class CheckpointError(EmmaError):
    """A file of weights is missing, foreign, damaged or does not fit the network."""


class ManifestError(EmmaError):
    """A folder of fused images disagrees with what is about to be written into it or read from it."""


class BusyError(EmmaError):
    """Another process is working in the same folder."""


class ResultError(EmmaError):
    """A ``result.json`` is missing, damaged or of another schema."""
