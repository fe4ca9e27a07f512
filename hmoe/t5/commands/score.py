"""`hmoe score`: log likelihoods of given targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.startup import answer_files, text_lines
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.data.cut_counts import CutCount
from hmoe.t5.graphs.model_settings import Vocabulary
from hmoe.t5.sessions import checkpoints, processes

# What scoring yields for each line: ids "targets" and a number "scores".
Result = Mapping[str, np.ndarray]
# What gin binds to the inputs or targets of `score_from_strings`: a file, or the lines themselves.
Source = str | Sequence[str]


class Lines(NamedTuple):
    """Lines to score, and where they are from, for errors."""

    source: str
    texts: list[str]


def score(request: Request, console: Console) -> None:
    """Scores the targets of a file, or else those that gin names."""
    checkpoints.require_latest(request.model_dir, console.say)
    request = configure.configure_trained(request, console)
    mode = "score_from_strings" if request.target_file else configure.mode_of("score")
    from_strings = mode == "score_from_strings"
    if not from_strings and request.data:
        configure.check_saved_data(request)
    run = T5Run(
        mode=mode,
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        score=_score_function(request, console) if from_strings else None,
        arguments={**configure.newest_checkpoint(), **configure.held_out_data()},
    )
    checkpoints.again_if_removed(run.start, console.say)


def _score_function(request: Request, console: Console) -> Callable[..., None]:
    """Returns upstream's `score_from_strings` with the lines of the request, or else of gin."""
    upstream = utils.score_from_strings
    inputs, targets = _inputs(request), _targets(request)

    def score_from_strings(
        vocabulary: Vocabulary,
        model_type: str,
        sequence_length: dict[str, int],
        **arguments: object,
    ) -> None:
        _check(inputs, targets, model_type)
        finish = {}
        if request.target_file or not gin_config.value("score_from_strings.score_postprocess_fn"):
            texts = inputs.texts if inputs else None
            finish["score_postprocess_fn"] = _finish(request, console, texts, targets.texts)
        upstream(
            vocabulary=vocabulary,
            model_type=model_type,
            sequence_length=sequence_length,
            inputs=inputs.texts if inputs else None,
            targets=targets.texts,
            **finish,
            **arguments,
        )
        for count in count_cut(inputs, targets, vocabulary, model_type, sequence_length):
            warning = count.warning()
            if warning:
                console.say(warning)

    return score_from_strings


def _inputs(request: Request) -> Lines | None:
    """Returns the inputs of the request, or of gin if it names no targets; None for no inputs."""
    if request.target_file:
        return _lines("--input_file", request.input_file) if request.input_file else None
    source = gin_config.value("score_from_strings.inputs")
    return None if source is None else _lines("score_from_strings.inputs", source)


def _targets(request: Request) -> Lines:
    """Returns the targets of the request, or else of gin."""
    if request.target_file:
        return _lines("--target_file", request.target_file)
    source = gin_config.value("score_from_strings.targets")
    if source is None:
        raise ValueError(
            "there is nothing to score: name the file of targets with --target_file, and that of "
            "their inputs with --input_file; in gin, score_from_strings.targets and .inputs"
        )
    return _lines("score_from_strings.targets", source)


def _lines(name: str, source: Source) -> Lines:
    """Reads a file, or takes lines as they are."""
    if isinstance(source, str):
        return Lines(f"{name} {source!r}", text_lines.read(name, source))
    return Lines(name, list(source))


def _check(inputs: Lines | None, targets: Lines, model_type: str) -> None:
    """Raises ValueError unless each target has its input, or the model needs none."""
    if inputs:
        answer_files.check_counts(
            inputs.source, len(inputs.texts), targets.source, len(targets.texts)
        )
    elif model_type != "lm":
        raise ValueError(
            f"a model of utils.run.model_type = {model_type!r} scores targets beside their inputs; "
            "name the file of inputs with --input_file (only an 'lm' scores targets alone)"
        )


def _finish(
    request: Request, console: Console, inputs: Sequence[str] | None, targets: Sequence[str]
) -> Callable[..., list[float]]:
    """Returns a function that prints the scores, or writes them to files."""

    def finish(results: Sequence[Result], vocabulary: Vocabulary) -> list[float]:
        del vocabulary
        scores = [float(result["scores"]) for result in results]
        if request.output_file:
            lengths = [str(np.count_nonzero(result["targets"])) for result in results]
            columns = ([f"{score:g}" for score in scores], inputs, targets, lengths)
            _write(request.output_file, columns)
            console.say(f"Wrote {len(scores)} scores to {request.output_file}.scores")
        else:
            for score in scores:
                console.answer(f"{score:.4f}")
        return scores

    return finish


def _write(path: str, columns: Sequence[Sequence[str] | None]) -> None:
    """Writes the files of `answer_files.SCORE_FILES`, but for inputs that are not there."""
    for end, lines in zip(answer_files.SCORE_FILES, columns):
        if lines is not None:
            with processes.writing_once(path + end) as write:
                for line in lines:
                    write(line)


def count_cut(
    inputs: Lines | None,
    targets: Lines,
    vocabulary: Vocabulary,
    model_type: str,
    sequence_length: Mapping[str, int],
) -> list[CutCount]:
    """Counts the inputs and targets that are longer than the model reads, as upstream encodes them.

    A language model reads the input and its target as one sequence, as long as a target.
    """
    of_inputs, of_targets = (
        utils.inputs_vocabulary(vocabulary),
        utils.targets_vocabulary(vocabulary),
    )
    counts = [CutCount("targets", "targets", sequence_length["targets"])]
    before = [0] * len(targets.texts)
    if inputs:
        lengths = [len(of_inputs.encode(text.strip())) for text in inputs.texts]
        if model_type == "lm":
            before = lengths
        else:
            counts.insert(0, CutCount("inputs", "inputs", sequence_length["inputs"]))
            for number, length in enumerate(lengths, 1):
                counts[0].add(length + 1, number)
    for number, (text, prefix) in enumerate(zip(targets.texts, before), 1):
        counts[-1].add(prefix + len(of_targets.encode(text.strip())) + 1, number)
    return counts
