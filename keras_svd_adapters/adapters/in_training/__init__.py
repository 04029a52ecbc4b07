"""What an adapter adds while it trains: random numbers, and terms of the loss."""
