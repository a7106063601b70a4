"""`semipose init`: a first recipe for your own data, every value with its reason."""
