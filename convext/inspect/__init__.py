"""What a model does, layer by layer: `verify` holds it against float64, `explain` says what runs and what it costs."""

from convext.inspect.explainer import explain
from convext.inspect.explanation import ExplainedLayer, Explanation
from convext.inspect.verification import Errors, Verification, VerifiedLayer, verify

__all__ = ["Errors", "ExplainedLayer", "Explanation", "Verification", "VerifiedLayer", "explain", "verify"]


def __dir__() -> list[str]:
    return sorted(__all__)  # not the modules that serve the names
