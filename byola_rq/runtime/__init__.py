"""Processes, devices, files and signals: nothing of audio."""
