"""What is measured: one script per claim of docs/performance.md, each against its peer or floor."""
