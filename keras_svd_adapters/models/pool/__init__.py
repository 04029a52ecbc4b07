"""A pool: many adapters in host memory, a few of them in slots on the device."""
