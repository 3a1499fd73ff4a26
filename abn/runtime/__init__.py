"""The process: errors, files, locks, signals, progress, device, random numbers, launching."""
