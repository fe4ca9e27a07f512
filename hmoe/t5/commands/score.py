"""`hmoe score`: log likelihoods of given targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.startup import path_checks
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.sessions import checkpoints


def score(request: Request, console: Console) -> None:
    """Scores the targets of a file, or else those that gin names."""
    checkpoints.require_latest(request.model_dir, console.say)
    request = configure.configure_trained(request, console)
    T5Run(
        mode=configure.mode_of("score"),
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        score=_score_function(request, console) if request.target_file else None,
        arguments={**configure.newest_checkpoint(), **configure.held_out_data()},
    ).start()


def _score_function(request: Request, console: Console) -> Callable[..., None]:
    """Returns upstream's `score_from_strings` with the files of the request."""
    upstream = utils.score_from_strings

    def finish(results: Sequence[dict[str, Any]], vocabulary: object) -> list[float]:
        if request.output_file:
            path = os.path.abspath(request.output_file)
            utils.save_scores(results, vocabulary, scores_filename=path)
            console.say(f"Wrote {len(results)} scores to {request.output_file}.scores")
        else:
            for result in results:
                console.answer(f"{result['scores']:.4f}")
        return [float(result["scores"]) for result in results]

    def score_from_strings(**arguments: object) -> None:
        path_checks.check_exists("input_file", request.input_file, tf.io.gfile.exists)
        path_checks.check_exists("target_file", request.target_file, tf.io.gfile.exists)
        upstream(
            inputs=request.input_file,
            targets=request.target_file,
            score_postprocess_fn=finish,
            **arguments,
        )

    return score_from_strings
