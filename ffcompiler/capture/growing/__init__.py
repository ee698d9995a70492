"""Loops whose arrays grow, found and captured as loops over a padded array (docs/growing.md)."""
