"""Examples of dates, numbers, money, units and lists in the form that a language gives them.

An input names the language, the style if there are several, the kind, and the value in a neutral
notation:

    de full date: 2037-07-15 Wed    ->  Mittwoch, 15. Juli 2037
    fr number: 1234567.8            ->  1 234 567,8
    pl long unit: 5 kilometer       ->  5 kilometrów

The input contains the weekday because finding it is a matter of arithmetic, not of language.
Numbers to be shortened have at most three digits that are not zero, so that nothing has to be
rounded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from babel import Locale, UnknownLocaleError

from hmoe.t5.data import cldr_values, examples
from hmoe.t5.data.examples import Example, ExampleRandom

# Nine scripts. Languages whose dates are far longer in UTF-8 than these (Thai, Tamil, Burmese) need
# larger byte limits.
DEFAULT_LANGUAGES: tuple[str, ...] = (
    "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "id",
    "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "vi", "zh",
)  # fmt: skip
KINDS: tuple[str, ...] = tuple(cldr_values.KINDS)


@functools.cache
def _locale(language: str) -> Locale:
    return Locale.parse(language)


@dataclasses.dataclass(frozen=True)
class FormatSettings:
    """Settings of `format_examples`.

    Attributes:
      languages: CLDR locales, such as "de", "pt_PT" or "sr_Latn"; more of them are harder to learn
        in the same number of steps.
      kinds: kinds of values, a subset of `KINDS`.
      num_draws: number of examples drawn for all splits together; repeated and too long ones are
        left out.
      max_input_bytes: longest input that is kept, in UTF-8 bytes.
      max_target_bytes: longest target that is kept, in UTF-8 bytes.
      seed: seeds the random values.

    Raises:
      ValueError: at construction, for an unknown language or kind, or a number below 1.
    """

    languages: tuple[str, ...] = DEFAULT_LANGUAGES
    kinds: tuple[str, ...] = KINDS
    num_draws: int = 500_000
    max_input_bytes: int = examples.MAX_INPUT_BYTES
    max_target_bytes: int = examples.MAX_TARGET_BYTES
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("languages", "kinds"):  # gin passes lists
            object.__setattr__(self, field, tuple(getattr(self, field)))
            examples.check_not_empty("FormatSettings", field, getattr(self, field))
        for field in ("num_draws", "max_input_bytes", "max_target_bytes"):
            examples.check_positive("FormatSettings", field, getattr(self, field))
        for language in self.languages:
            try:
                _locale(language)
            except (UnknownLocaleError, ValueError):
                raise ValueError(
                    f"FormatSettings.languages: CLDR has no language {language!r}; use locale "
                    f"names such as {', '.join(DEFAULT_LANGUAGES[:4])} or sr_Latn"
                ) from None
        examples.check_kinds("FormatSettings", self.kinds, KINDS)


def format_examples(split: str, settings: FormatSettings | None = None) -> Iterator[Example]:
    """Draws the examples of one split, each input once, the same in every process.

    Args:
      split: "train", "validation" or "test".
      settings: the settings; the defaults if None.

    Yields:
      Examples in an order that mixes languages and kinds.

    Raises:
      ValueError: there is no such split.
    """
    examples.check_split(split)
    settings = settings or FormatSettings()
    # Each kind as often as its weight.
    kinds = [kind for kind in settings.kinds for _ in range(cldr_values.KINDS[kind].weight)]
    seen: set[int] = set()
    for index in range(settings.num_draws):
        random = ExampleRandom(settings.seed, index)
        language = random.choice(settings.languages)
        kind = random.choice(kinds)
        value = cldr_values.KINDS[kind].draw(random)
        inputs = f"{language} {value.text}"
        # The cheap checks come first: most draws for a small split fail them.
        key = examples.digest(inputs)
        if examples.split_of_digest(key) != split or key in seen:
            continue
        seen.add(key)
        targets = value.write(_locale(language))
        if targets and examples.fits(
            inputs, targets, settings.max_input_bytes, settings.max_target_bytes
        ):
            yield Example(inputs, targets, language, kind)
