"""The examination of a folder of images: what each one is, and what is wrong with the set."""
