"""Settings: YAML recipes to frozen dataclasses, all errors at once."""
