"""What is kept: the database of record behind one protocol."""
