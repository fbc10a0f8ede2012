"""The errors that kapture_ros raises on purpose.

They are raised where the fact is known and shown once, at the border: one line on the
command line, a log entry and a status in a node. A message names the file, topic or
parameter and says what to do about it.
"""


class KaptureRosError(Exception):
    """Base of every error a user can cause and cure."""


class OptionError(KaptureRosError):
    """An option, parameter or configuration key is unknown or out of range."""


class OutputError(KaptureRosError):
    """The output exists already, cannot be written or the disk is full."""


class InputError(KaptureRosError):
    """An input file or folder is missing, unreadable or not what it should be."""


class TransformError(KaptureRosError):
    """A transform was asked for that the tree cannot answer."""


class UnknownFrameError(TransformError):
    """A frame was never named by any transform."""


class DisconnectedFramesError(TransformError):
    """Both frames are known but no chain of transforms links them."""


class ExtrapolationError(TransformError):
    """The chain exists but not at the time asked for."""


class MissingDependencyError(KaptureRosError):
    """An optional library is not installed."""
