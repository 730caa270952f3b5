"""Commands on registered versions: list, compare, promote, reproduce, sign, verify."""
