"""What can be said of data, and how surely: metrics go from a frame to a frame, and their models come in by name."""
