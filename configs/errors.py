"""The one exception for everything that a user can mend."""


class InputError(ValueError):
    """Something that the user gave is wrong: one clear sentence with the file, the record and the cure.

    Several problems found together stand one on a line. The commands print it and exit with code 2.
    """
