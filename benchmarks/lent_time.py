"""The minutes that a machine is lent for, and work that ends with them."""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any


class Clock:
    """The minutes that there are, and training that ends with them."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.rang = False

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    @contextlib.contextmanager
    def until(self, before: float) -> Iterator[None]:
        """Break off what is inside, by KeyboardInterrupt, `before` seconds before the end; `rang` says if it was."""

        def ring(*_: Any) -> None:
            self.rang = True
            raise KeyboardInterrupt

        self.rang = False
        earlier = signal.signal(signal.SIGALRM, ring)
        # Again after a while: where Python cannot raise, as in a destructor, the first is lost.
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.left() - before), 30)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, earlier)
