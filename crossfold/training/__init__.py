"""Train the part of a network above the cut: one fold, and the final fit."""
