"""The vocabularies of tasks: bytes, or a user's SentencePiece model."""

from __future__ import annotations

import seqio

from hmoe.startup.data_files import vocabulary

# Sentinels for span corruption. Without extra ids, sentinels would be byte values, which a
# vocabulary of bytes decodes to nothing or to wrong characters.
EXTRA_IDS = 100

BYTES = seqio.ByteVocabulary(extra_ids=EXTRA_IDS)


def load(path: str | None) -> seqio.Vocabulary:
    """Loads a SentencePiece vocabulary, or returns bytes for None; both have 100 sentinels.

    Raises:
      ValueError: the file is missing, cannot be read, or is not a SentencePiece model whose first
        ids are those that T5 expects.
    """
    if path is None:
        return BYTES
    vocabulary.check(path)
    return seqio.SentencePieceVocabulary(path, extra_ids=EXTRA_IDS)
