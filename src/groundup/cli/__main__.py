"""`python -m groundup.cli`, where the script is not on the path."""

from groundup.cli import main

main()
