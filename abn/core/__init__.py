"""What every stage stands on: params, packed data, files, locks, errors, random numbers."""
