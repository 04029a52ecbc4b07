"""Methods whose experts a router weighs for each input of a kernel."""
