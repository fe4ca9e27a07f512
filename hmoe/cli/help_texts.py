"""The texts of the help pages: what each subcommand does, and two examples of it."""

from __future__ import annotations

WHERE_FILES_ARE = """\
A gin file is looked for in the current folder, then in the folders of --gin_location_prefix, among
T5's gin files, and among those of this package (`hmoe gin list`).
"""

EPILOG = f"""\
The flags are those of T5's own command (t5_mesh_transformer), so its command lines work here.
{WHERE_FILES_ARE}"""

MAIN_EXAMPLES = (
    "hmoe train",
    'hmoe predict --model_dir=runs/default "de full date: 2037-07-15 Wed"',
)

# For each subcommand: one line, and examples.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": (
        "train a model; with no flags, the default job (runs/default.gin)",
        (
            "hmoe train --data=pairs.tsv --train_steps=1000",
            "hmoe train --gin_file=runs/tiny.gin --gin_param='train_steps = 8' --model_dir=runs/a",
        ),
    ),
    "eval": (
        "score a trained model on held-out examples",
        (
            "hmoe eval --model_dir=runs/default",
            "hmoe eval --model_dir=runs/a --gin_param='utils.run.eval_checkpoint_step = \"all\"'",
        ),
    ),
    "predict": (
        "answer lines of text",
        (
            'hmoe predict --model_dir=runs/default "fr long money: 12.50 EUR"',
            "hmoe predict --model_dir=runs/a --input_file=lines.txt --output_file=answers.txt",
        ),
    ),
    "score": (
        "print the log likelihood of each given target, in nats",
        (
            "hmoe score --model_dir=runs/a --input_file=inputs.txt --target_file=targets.txt",
            "hmoe score --input_file=inputs.txt --target_file=targets.txt --output_file=out/first",
        ),
    ),
    "trace": (
        "write which experts each token went to, or compare two such files",
        (
            'hmoe trace --model_dir=runs/default "de full date: 2037-07-15 Wed"',
            "hmoe trace --compare runs/a/trace-1200.parquet runs/b/trace-1200.parquet",
        ),
    ),
    "ablate": (
        "score held-out examples with experts or groups of them left out",
        (
            "hmoe ablate --model_dir=runs/default",
            "hmoe ablate --model_dir=runs/a --label=kind --examples=8 --seeds=1",
        ),
    ),
    "export": (
        "write a SavedModel for serving",
        (
            "hmoe export --model_dir=runs/default",
            "hmoe export --model_dir=runs/a --export_dir=served/a",
        ),
    ),
    "split": (
        "rewrite a model with separate variables for each expert",
        (
            "hmoe split --model_dir=runs/default --output_dir=runs/separate",
            "hmoe split --model_dir=runs/a --output_dir=/tmp/experts",
        ),
    ),
    "merge": (
        "rewrite a model with all experts of a layer in one variable",
        (
            "hmoe merge --model_dir=runs/separate --output_dir=runs/whole",
            "hmoe merge --model_dir=/tmp/experts --output_dir=runs/b",
        ),
    ),
    "plan": (
        "count what a training step would cost on each device, without running it",
        (
            "hmoe plan",
            "hmoe plan --gin_file=models/hierarchical_base.gin --gin_file=layouts/v3-256.gin "
            "--gin_param='utils.run.batch_size = 1024'",
        ),
    ),
    "report": (
        "show a run on one HTML page: its curves, and what its experts learned",
        (
            "hmoe report --model_dir=runs/default",
            "hmoe report --model_dir=runs/a --against=runs/b --output=a_and_b.html",
        ),
    ),
    "launch": (
        "run a command in many processes, each with one slice of the mesh",
        (
            "hmoe launch -n 4 --restarts=3 -- train --model_dir=runs/a",
            "hmoe launch --hosts=10.0.0.2:2222,10.0.0.3:2222 --host_index=0 --workers_per_host=2 "
            "--trust_network -- train",
        ),
    ),
    "gin": (
        "list, show and copy the gin files of this package",
        ("hmoe gin list", "hmoe gin copy runs/default.gin my.gin"),
    ),
    "completion": (
        "print a script that completes commands and flags in a shell",
        (
            "hmoe completion bash > ~/.local/share/bash-completion/completions/hmoe",
            'hmoe completion zsh > "${fpath[1]}/_hmoe"',
        ),
    ),
    "help": ("print the help of a command", ("hmoe help", "hmoe help train")),
}

GIN_COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "list": (
        "list the gin files, with what each is for",
        ("hmoe gin list", "hmoe gin list layouts"),
    ),
    "show": (
        "print a gin file",
        ("hmoe gin show runs/default.gin", "hmoe gin show --whole runs/tiny"),
    ),
    "copy": (
        "copy a gin file, to change it",
        ("hmoe gin copy runs/default.gin", "hmoe gin copy layouts/cpu_2x2.gin my_layout.gin"),
    ),
}


def sentence(text: str) -> str:
    """Returns a line of the list of commands as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def examples(lines: tuple[str, ...]) -> str:
    """Returns the examples of a help page under their heading."""
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])
