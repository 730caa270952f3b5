"""Crossfold's domain: labelled images in, a cross-validated, registered classifier out."""
