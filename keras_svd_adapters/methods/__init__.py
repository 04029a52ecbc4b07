"""The methods: one file each, its algebra."""
