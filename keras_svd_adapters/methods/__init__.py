"""The methods, each one its algebra."""
