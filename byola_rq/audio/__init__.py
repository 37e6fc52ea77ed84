"""Sound in: decoding, resampling, log-mel; and back to sound."""
