"""Apache Pulsar as the backbone of an OPAL-server fleet: every event reaches every worker, through faults too."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("opal-pulsar-backbone")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
