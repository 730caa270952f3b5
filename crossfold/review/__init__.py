"""Review the label errors that a run lists: a page to decide on, and the decisions so far."""
