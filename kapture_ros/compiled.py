"""Functions as machine code that numba compiles when their module is imported.

The machine code is kept in numba's cache, beside the module or in the user's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(signature: str, fastmath: Collection[str] = ()) -> Callable[[_Function], _Function]:
    """Compile now, for threads; take the machine code of an earlier run if it is kept."""

    def compile_(function: _Function) -> _Function:
        def build(cache: bool) -> _Function:
            made: _Function = numba.njit(
                signature, nogil=True, cache=cache, fastmath=set(fastmath)
            )(function)
            return made

        try:
            return build(cache=True)
        except RuntimeError:  # no folder that can be written to
            return build(cache=False)

    return compile_
