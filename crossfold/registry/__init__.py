"""Registered versions: package, gate, promotion, lineage and model card."""
