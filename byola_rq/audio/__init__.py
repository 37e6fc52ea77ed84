"""Audio: decoding, resampling, log-mel spectrograms, and their inversion."""
