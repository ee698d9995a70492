"""Windows: from `latest`, the boxes that a sweep over part of the array has to compute."""

from __future__ import annotations

from .analysis import WindowAnalysis, results_of

__all__ = ["WindowAnalysis", "results_of"]
