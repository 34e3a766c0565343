"""Switches of convext's kernels, in the manner of ``torch.backends``."""

from collections.abc import Iterator
from contextlib import contextmanager

from . import _C

__all__ = ["cpu"]


class _Cpu:
    """The CPU kernels: which instruction set they use.

    Results are bitwise reproducible on one ISA level; another level sums in another order.
    """

    def isa_levels(self) -> list[str]:
        """The levels that this processor can run, lowest first, e.g. ``["baseline", "avx2", "avx512"]``."""
        return list(_C.isa_levels())

    def get_max_isa(self) -> str:
        """The level in use. At import it is the processor's highest, or what ``CONVEXT_MAX_ISA`` caps it to."""
        return str(_C.get_max_isa())

    def set_max_isa(self, level: str) -> None:
        """Caps the level for the whole process; a level above the processor's own means the processor's own.

        Raises:
            ValueError: ``level`` is not the name of a level.
        """
        _C.set_max_isa(level)

    @contextmanager
    def max_isa(self, level: str) -> Iterator[None]:
        """Caps the level inside a ``with`` block. It is one setting for all threads of the process."""
        before = self.get_max_isa()
        self.set_max_isa(level)
        try:
            yield
        finally:
            self.set_max_isa(before)


cpu = _Cpu()
