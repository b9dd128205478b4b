"""The dead-man's switch: an address that is fetched after passes that ended well; its silence is noticed elsewhere."""

import threading
from pathlib import Path

import requests

from rekeyd import __version__
from rekeyd.adapters.secret_file import read_secret_line
from rekeyd.core.events import Event
from rekeyd.errors import Error, TemporaryError
from rekeyd.logs import get_logger

log = get_logger()

_TIMEOUT = (5, 10)
_TRIES = 2


class Heartbeat:
    """`wish` from any thread, as often as there are passes; `send` fetches once for all wishes so far."""

    def __init__(self, url_file: Path | None) -> None:
        """None: nobody listens. The file is read anew each time, so a corrected one needs no restart."""
        self._url_file = url_file
        self._wished = threading.Event()
        self._sending = threading.Lock()
        self._told = False

    def wish(self) -> None:
        self._wished.set()

    def send(self) -> None:
        """Never raises for a switch that does not answer: its silence is what it is for."""
        if self._url_file is None or not self._wished.is_set() or not self._sending.acquire(blocking=False):
            return
        try:
            self._wished.clear()
            self._fetch(self._url_file)
            self._told = False
        except Error as error:
            if not self._told:
                log.error(Event.NOTIFICATION_FAILED, channel="heartbeat", error=error.message)
            self._told = True
        finally:
            self._sending.release()

    def _fetch(self, url_file: Path) -> None:
        url = read_secret_line(url_file, "alarms.heartbeat_url_file")
        said = ""
        for _ in range(_TRIES):
            try:
                answer = requests.get(url.reveal(), headers={"User-Agent": f"rekeyd/{__version__}"}, timeout=_TIMEOUT)
                if answer.ok:
                    return
                said = f"answered {answer.status_code}"
            except (requests.RequestException, OSError, ValueError) as error:
                said = f"cannot be reached ({type(error).__name__})"
        raise TemporaryError(f"the heartbeat's address {said}")
