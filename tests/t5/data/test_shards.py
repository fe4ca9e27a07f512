from __future__ import annotations

import collections

import pytest

from hmoe.t5.data import cldr, files, tasks
from hmoe.t5.data.shards import WHOLE, Shard


def test_the_whole_is_in_its_order():
    assert list(WHOLE.of_rows("abcdefg")) == list("abcdefg")
    assert WHOLE.has_digest(12345)


@pytest.mark.parametrize(
    ("run", "wanted"),
    [(1, ["adgj", "beh", "cfi"]), (2, ["abgh", "cdij", "ef"]), (4, ["abcd", "efgh", "ij"])],
)
def test_shards_take_turns_at_runs_of_rows(run, wanted):
    assert ["".join(Shard(n, 3).of_rows("abcdefghij", run)) for n in range(3)] == wanted


def assert_divided(whole, shards):
    """Checks that shards have each row once between them, in the order of the whole."""
    assert collections.Counter(whole) == collections.Counter(row for s in shards for row in s)
    place = {row: number for number, row in enumerate(whole)}
    for shard in shards:
        assert shard
        places = [place[row] for row in shard]
        assert places == sorted(places)


def test_examples_of_formats_are_divided():
    # Many draws of few values, which repeat one another.
    settings = cldr.FormatSettings(languages=("de", "ja"), num_draws=3_000)
    whole = list(cldr.format_examples("train", settings))
    shards = [list(cldr.format_examples("train", settings, Shard(n, 5))) for n in range(5)]
    assert_divided(whole, shards)
    assert max(map(len, shards)) < 1.5 * min(map(len, shards))


def test_examples_of_names_are_divided():
    settings = cldr.NameSettings(languages=("de", "ja"))
    whole = list(cldr.name_examples("train", settings))
    shards = [list(cldr.name_examples("train", settings, Shard(n, 5))) for n in range(5)]
    assert_divided(whole, shards)
    assert max(map(len, shards)) <= min(map(len, shards)) + 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("data_format", ["pairs", "text"])
def test_rows_of_a_users_files_are_divided(tmp_path, data_format, split):
    path = tmp_path / "data"
    end = "\tout" if data_format == "pairs" else "\n"
    path.write_text("".join(f"line {number}{end}\n" for number in range(900)))
    name = files.register(str(path), data_format=data_format)
    read = tasks._rows_by_task[name].read
    whole = list(read(split, WHOLE)())
    shards = [list(read(split, Shard(n, 7))()) for n in range(7)]
    assert_divided(whole, shards)
    if data_format == "text" and split == "train":
        # A seventh of some 855 blocks: neighbours stay together.
        assert shards[0] == whole[: len(whole) // 7] + shards[0][len(whole) // 7 :]
        assert len(whole) // 7 > 100
