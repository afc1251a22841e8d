"""The process on each node: accepts orders, keeps attempts, reports facts."""
