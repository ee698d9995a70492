"""How good the compiler's own choice of schedule is: many systems, each run with every candidate.

Method and figures: docs/benchmarks.md.
"""

from __future__ import annotations
