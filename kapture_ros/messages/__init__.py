"""ROS messages as records of a dataset: one function per type, found by the type's name."""

from kapture_ros.messages.common import Message, MessageError
from kapture_ros.messages.table import RecordFunction, record_function

__all__ = ["Message", "MessageError", "RecordFunction", "record_function"]
