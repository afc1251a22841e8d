"""The loops of the server: dispatch, ingest, step, seal."""
