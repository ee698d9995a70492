"""Measuring: interleaved pairs, medians, every raw number kept with its machine (method: docs/benchmarks.md)."""

from __future__ import annotations
