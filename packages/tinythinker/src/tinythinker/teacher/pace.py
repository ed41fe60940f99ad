"""When the next request may leave: limits of requests and tokens a minute, and pauses that a server asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Departure times for the threads that ask one server. Requests are spread evenly, not sent in bursts.

    A limit of None does not count. `clock` gives seconds.
    """

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock()
        self._held_until = self._next

    def seconds_to_wait(self, tokens: int) -> float:
        """Takes the next departure, for a request of so many tokens, and says in how many seconds it is."""
        with self._lock:
            now = self._clock()
            departure = max(now, self._next, self._held_until)
            self._next = departure + max(self._per_request, self._per_token * tokens)
            return departure - now

    def hold(self, seconds: float) -> None:
        """No request leaves within so many seconds; those that have a departure before that see it in `held`."""
        with self._lock:
            self._held_until = max(self._held_until, self._clock() + seconds)

    def held(self) -> float:
        """Seconds until requests may leave again; 0 where nothing holds them."""
        with self._lock:
            return max(0.0, self._held_until - self._clock())
