"""YAML recipes and command-line overrides to settings, all errors at once."""


class InputError(ValueError):
    """Something that the user gave is wrong: one clear sentence with the file, the record and the cure."""
