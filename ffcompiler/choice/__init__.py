"""The choice of a schedule: costs and convergence measured, candidates simulated (docs/decision.md)."""
