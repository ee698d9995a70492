"""Steps of a loop evaluated many at once (docs/recurrences.md)."""
