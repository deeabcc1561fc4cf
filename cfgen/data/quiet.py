"""Reading without the warnings of the libraries, in any number of threads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

# The filters of warnings belong to the process: each thread that saved and restored them itself
# would now and then restore what another one had set. So the first in and the last out do.
_lock = Lock()
_saved = ExitStack()
_inside: list[None] = []


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, which quote what a file says; afterwards the filters are as before."""
    with _lock:
        if not _inside:
            _saved.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _saved.close()
