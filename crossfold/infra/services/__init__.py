"""The services in Docker on this machine: start, backup, upgrade, deletion of old runs."""
