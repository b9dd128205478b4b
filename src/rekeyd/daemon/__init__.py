"""`rekeyd run`: the process that keeps working by itself. Clock, signals, supervisor; what is done is the fleet's."""

from rekeyd.daemon.process import run

__all__ = ["run"]
