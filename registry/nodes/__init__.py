"""Nodes: the machines that run a supervisor; where they can be reached, what lives on which, and what they are told."""
