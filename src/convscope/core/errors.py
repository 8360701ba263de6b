"""The one error that says "this cannot be analysed"."""


class ConvscopeError(Exception):
    """Something that a user brought cannot be analysed.

    The message is one line: what was wrong, what we got, what is expected, what to do.
    The command line prints it and exits with status 1; it never shows a traceback for it.
    Wrong *arguments* in Python raise ``ValueError`` or ``TypeError`` instead.
    """
