"""The configuration: read, checked and shown.

Here stands what the settings are and when they are wrong. No network, no secret, no
clock; the files that settings name are not opened here.
"""

from rekeyd.config.durations import format_duration, parse_duration
from rekeyd.config.loading import load, parse
from rekeyd.config.models import Config
from rekeyd.config.policies import freezes_of, policies_of
from rekeyd.config.problems import ConfigProblemsError, Problem
from rekeyd.config.rendering import as_toml, effective, example, schema
from rekeyd.config.values import listen_address

__all__ = [
    "Config",
    "ConfigProblemsError",
    "Problem",
    "as_toml",
    "effective",
    "example",
    "format_duration",
    "freezes_of",
    "listen_address",
    "load",
    "parse",
    "parse_duration",
    "policies_of",
    "schema",
]
