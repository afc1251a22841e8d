"""quarterdeck: run, schedule, trace, tail and observe commands on a fleet of machines."""
