"""A plan told to its user: explanations, what would change the verdict, a page, a graph, pictures."""
