"""The base of every exception whose message is written for the user."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend: the message says what, where and how, and no traceback is needed.

    is_final: the run itself came to it, and would again, whatever is mended; so nobody is told to go on.
    """

    is_final = False
    is_refusal = False  # what a job is asked for cannot be had, so that it does not begin


class Interrupted(Exception):
    """Work that stopped because it was asked to; what is on disk is where it goes on."""
