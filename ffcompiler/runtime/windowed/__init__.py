"""Windowed sweeps: only what can have changed is computed, in calls bound to memory (docs/windows.md)."""
