"""What is in a data set: a folder for each class, given splits, or a list of labels."""
