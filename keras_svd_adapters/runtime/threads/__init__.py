"""Threads that use one model: who may change it, and what each of them alone has set."""
