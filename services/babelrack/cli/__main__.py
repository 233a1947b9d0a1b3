"""`python -m babelrack.cli`, for where the console script isn't on PATH."""

from babelrack.cli import main

main()
