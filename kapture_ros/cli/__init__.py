"""The command line: one module a subcommand, found by name.

A command module defines HELP (one line), EXAMPLES (text), `add_arguments(parser)` and
`run(args)`, which returns an exit code or None for success. Heavy imports belong inside
`run`, so that `--help` answers at once.
"""
