"""Warning and error types of the package."""


class ScsslWarning(UserWarning):
    """Category of every warning that scssl raises itself."""


class BundleError(ValueError):
    """A model folder is missing, truncated, tampered with, foreign or of a newer format."""


class GeneMismatchError(ValueError):
    """The genes of a data set do not match the genes of a model or vocabulary."""
