"""The programs behind `bin/` and the installed `tfode-*` commands."""
