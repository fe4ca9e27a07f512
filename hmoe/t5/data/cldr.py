"""Examples from the Unicode CLDR: how languages write values, and how they name things.

The CLDR is the Common Locale Data Repository; babel carries its data. The generators need no
TensorFlow and no download and keep no state: `format_examples(split)` and `name_examples(split)`
yield the same examples in every process, for a given version of babel.
"""

from __future__ import annotations

from hmoe.t5.data.cldr_formats import DEFAULT_LANGUAGES, FormatSettings, format_examples
from hmoe.t5.data.cldr_formats import KINDS as FORMAT_KINDS
from hmoe.t5.data.cldr_names import KINDS as NAME_KINDS
from hmoe.t5.data.cldr_names import NameSettings, name_examples
from hmoe.t5.data.cldr_names import languages as name_languages
from hmoe.t5.data.examples import (
    MAX_INPUT_BYTES,
    MAX_TARGET_BYTES,
    SEQUENCE_LENGTH,
    SPLITS,
    Example,
    split_of,
)

__all__ = [
    "DEFAULT_LANGUAGES",
    "Example",
    "FORMAT_KINDS",
    "FormatSettings",
    "MAX_INPUT_BYTES",
    "MAX_TARGET_BYTES",
    "NAME_KINDS",
    "NameSettings",
    "SEQUENCE_LENGTH",
    "SPLITS",
    "format_examples",
    "name_examples",
    "name_languages",
    "split_of",
]
