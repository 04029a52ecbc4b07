"""Bottleneck adapters: small networks beside or behind a kernel."""
