"""Being asked to stop."""

import signal


class Interrupted(Exception):
    """Work was ended by a signal, with everything saved.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
