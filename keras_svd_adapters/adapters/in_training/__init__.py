"""What training adds: random numbers, terms of the loss, and gates of the backward pass."""
