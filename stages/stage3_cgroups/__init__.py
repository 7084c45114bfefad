"""Stage 3: CPU, memory, processes, disk and network in measured amounts, by control groups."""
