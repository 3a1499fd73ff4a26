"""The version: the only place that states it. No stage imports it, so a release retrains nothing."""

__version__ = "0.2.0"
