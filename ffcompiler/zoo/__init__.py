"""Small sequential models with shipped weights: what the examples, the tests and the benchmarks compile."""
