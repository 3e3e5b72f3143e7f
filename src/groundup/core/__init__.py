"""What every folder stands on: configs, errors, seeds, files, the run directory, console, devices."""
