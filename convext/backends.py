"""Switches of convext's kernels, in the manner of ``torch.backends``."""

from collections.abc import Iterator
from contextlib import contextmanager

from . import _C

__all__ = ["cpu", "winograd"]


def __dir__() -> list[str]:
    return sorted(__all__)


class _Cpu:
    """The CPU kernels: which instruction set they use.

    Results are bitwise reproducible on one ISA level; another level sums in another order.
    """

    __slots__ = ()  # a name that does not exist cannot be set

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


class _Winograd:
    """Winograd's algorithm for stride 1 and 3 x 3 or 5 x 5 taps in the plane: less arithmetic, more rounding.

    Its error bound in float32 is 5e-6 where the other algorithms' is 1e-6 (docs/numerics.md). The switch is one for all
    threads of the process and is read whenever an operator runs, also inside of compiled and exported graphs: setting
    it between forward and backward changes the backward.
    """

    __slots__ = ()

    @property
    def enabled(self) -> bool:
        """Whether operators may use it; True at import."""
        return bool(_C.winograd_enabled())

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"convext.backends.winograd.enabled: expected a bool, got {type(value).__name__}")
        _C.set_winograd_enabled(value)

    @contextmanager
    def flags(self, enabled: bool = False) -> Iterator[None]:
        """Sets `enabled` inside of a ``with`` block, as ``torch.backends.cudnn.flags`` does."""
        before = self.enabled
        self.enabled = enabled
        try:
            yield
        finally:
            self.enabled = before


cpu = _Cpu()
winograd = _Winograd()
