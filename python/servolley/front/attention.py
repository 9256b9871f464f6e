"""The core's attention bits, where several of its answers come together before anybody acts on them."""

from servolley._core import PAUSE, RESUME

_READING = PAUSE | RESUME


def merged(earlier: int, later: int) -> int:
    """Both, but of pausing and resuming the later word alone."""
    return (earlier & ~_READING if later & _READING else earlier) | later
