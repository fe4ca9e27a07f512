"""The vocabularies of tasks: bytes, or a user's SentencePiece model."""

from __future__ import annotations

import sentencepiece
import seqio

from hmoe.startup.path_checks import check_file

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
    check_file(path)
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=path)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is not a SentencePiece model; give the .model file that its trainer wrote"
        ) from error
    ids = (model.pad_id(), model.eos_id(), model.unk_id())
    if ids != (0, 1, 2):
        raise ValueError(
            f"{path} has pad, end and unknown at ids {ids[0]}, {ids[1]}, {ids[2]}; T5 expects 0, "
            "1, 2: train it with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1"
        )
    return seqio.SentencePieceVocabulary(path, extra_ids=EXTRA_IDS)
