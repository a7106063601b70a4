"""Throughput benchmarks of the augmentation."""
