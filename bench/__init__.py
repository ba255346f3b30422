"""A real broker against the yardstick `bare`, in one run, as ratios: `python -m bench`."""
