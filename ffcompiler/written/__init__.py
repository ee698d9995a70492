"""Values as text and as JSON, and read back equal: nothing in either is ever executed."""
