"""Traces on the server: begin, take what senders send, end; keep, archive, forget."""
