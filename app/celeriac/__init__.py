"""The platform: what keeps work from being lost, shows it, and keeps the processes alive."""
