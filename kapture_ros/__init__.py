"""Record to kapture, map and localize: cameras, GPS and Wi-Fi for ROS 2.

Importing this package, and everything in it but `kapture_ros.nodes`, needs no ROS.
"""

from pkgutil import extend_path

# The built messages (`kapture_ros.msg`) live where the package was installed, which is
# another folder than this one when Python is started in the source tree.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
