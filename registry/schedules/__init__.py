"""Warm hours: when a model is kept loaded, by the clock on the wall."""
