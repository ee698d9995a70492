"""What stays on disk: the container of an artifact, its weights, and the plan cache, replaced whole or not at all."""
