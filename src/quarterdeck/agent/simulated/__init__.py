"""A whole machine in memory: the second implementation of the agent's host, on the loop's time."""
