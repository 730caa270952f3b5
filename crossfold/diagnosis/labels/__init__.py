"""Which images may have a wrong label or no class, and which classes are confused."""
