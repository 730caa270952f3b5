"""Whether facts that need no look at the object tell the classes apart."""
