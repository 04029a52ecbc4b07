"""Low rank with a trained number for each rank."""
