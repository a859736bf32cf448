"""The command line: one module per subcommand.

`verify`, `inspect` and `policy` need the base install only and reach no network; every other
subcommand imports what it needs when it runs, and says which extra to install where that is
missing.
"""
