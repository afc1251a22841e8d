"""How messages cross: the fabric protocol and its NATS implementation."""
