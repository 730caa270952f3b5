"""What the backups of services and cluster share: the folder, the databases, the containers."""
