"""HTTP access for programs."""
