"""Passes: each maps a verified program to a verified program."""
