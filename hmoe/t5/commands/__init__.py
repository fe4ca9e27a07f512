"""The subcommands of `hmoe`, and how they configure and run T5."""
