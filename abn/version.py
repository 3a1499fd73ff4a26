"""The version, stated here only. No stage imports this file: a release retrains nothing."""

__version__ = "0.2.0"
