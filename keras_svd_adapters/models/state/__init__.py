"""What a model trains, saves and compiles while it has adapters."""
