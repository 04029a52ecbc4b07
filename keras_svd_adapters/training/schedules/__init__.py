"""Schedules that come with methods: what a method prunes, freezes or moves while it trains."""
