"""Checks a SentencePiece model."""

from __future__ import annotations

from hmoe.storage.local_files import check_file


def check(path: str) -> None:
    """Raises ValueError unless a file is a SentencePiece model whose first ids are T5's."""
    import sentencepiece

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
