"""Measurements that print and assert nothing: `uv run python -m tests.benchmarks.bench_bq`."""
