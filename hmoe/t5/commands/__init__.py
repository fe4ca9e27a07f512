"""The subcommands of `hmoe`: one module each, and how they configure and run T5."""
