"""Stacked layers, level by level: one graph for a level, and its calls (docs/stacks.md)."""
