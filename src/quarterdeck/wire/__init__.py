"""What crosses between processes: messages, their encoding and their subjects."""
