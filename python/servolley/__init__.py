"""servolley: an inference server for people who count microseconds."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    # Read lazily: importlib.metadata costs milliseconds that `servolley serve` does not have at start.
    if name == "__version__":
        from importlib.metadata import version

        return version("servolley")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
