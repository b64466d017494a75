"""The version of the package, which the build and the records of runs read from here."""

__version__ = "0.1.0"
