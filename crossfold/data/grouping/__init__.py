"""Groups of images, such as those of one patient, that no split may divide."""
