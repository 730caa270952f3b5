"""What cross-validation knows about the data: wrong labels, outliers, shortcuts, trust."""
