"""Processes, devices, files, signals and random numbers, independent of audio."""
