"""Finds, fetches and verifies a data set by its name; tasks ask here and never name a folder.

A data set is described by `tasks/datasets/<name>.yaml`: its true name, licence, files with digests
and public sources. It is looked for in `$SEXTANT_DATA/<name>`, then in the cache
(`$SEXTANT_CACHE/data/<name>`, by default under `~/.cache/sextant`), then fetched into the cache.
Importing this package is light: heavy libraries load only when a source needs them.
"""

from sextant.data.definitions import DataFile, Definition, UnknownData, definition, names
from sextant.data.folders import (
    DataFolder,
    DataNotFound,
    KnownData,
    WrongBytes,
    fetch,
    known,
    locate,
    verify,
)
from sextant.data.sources import SOURCES, SourceFailed

__all__ = [
    "SOURCES",
    "DataFile",
    "DataFolder",
    "DataNotFound",
    "Definition",
    "KnownData",
    "SourceFailed",
    "UnknownData",
    "WrongBytes",
    "definition",
    "fetch",
    "known",
    "locate",
    "names",
    "verify",
]
