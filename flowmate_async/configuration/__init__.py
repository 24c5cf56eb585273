"""Settings from the environment and the configuration file: what commands and ``from_env()`` read."""
