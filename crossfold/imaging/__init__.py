"""Image files to pixels, within a bound on memory, and what can be said of a single image."""
