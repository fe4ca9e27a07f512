"""Reports the contents of a user's files: numbers of examples, bad lines, longest texts."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a user's files.

    Attributes:
      data: path of the training data.
      validation_data: path of the validation data; None if it is held out of `data`.
      data_format: "pairs" or "text".
      num_training: number of training examples: pairs, or blocks of text.
      num_validation: number of validation examples.
      skipped: messages about the first bad lines.
      num_skipped: number of bad lines in both files.
      max_input_bytes: longest input in UTF-8 bytes; for text, the longest block.
      max_target_bytes: longest target in UTF-8 bytes; for text, the longest block.
    """

    data: str
    validation_data: str | None
    data_format: str
    num_training: int
    num_validation: int
    skipped: tuple[str, ...]
    num_skipped: int
    max_input_bytes: int
    max_target_bytes: int

    def summary(self) -> str:
        """Returns a line with the numbers of examples, and one for each bad line that is shown."""
        what = "pairs" if self.data_format == "pairs" else "blocks of text"
        source = (
            f"from {self.validation_data}"
            if self.validation_data
            else "held out by a hash of the input, since there is no validation data"
        )
        text = (
            f"{self.data}: {self.num_training} {what} for training, {self.num_validation} for "
            f"validation ({source})"
        )
        if self.data_format == "pairs":
            text += (
                f"; longest input {self.max_input_bytes} bytes, longest target "
                f"{self.max_target_bytes} bytes"
            )
        if self.num_skipped:
            text += f"; {self.num_skipped} bad lines skipped, such as"
            text += "".join(f"\n  {message}" for message in self.skipped)
        return text
