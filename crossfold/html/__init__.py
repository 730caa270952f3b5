"""The page layout and the template environment that the report and the data page share."""
