"""The one place that states the version: the build reads it, and ``convext.__version__`` is it."""

__version__ = "0.1.0"
