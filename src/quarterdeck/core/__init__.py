"""Decisions: pure machines and records, without IO, clock or randomness."""
