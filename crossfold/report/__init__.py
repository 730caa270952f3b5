"""The report of a run: tables, figures, pictures, and the files for DVC."""
