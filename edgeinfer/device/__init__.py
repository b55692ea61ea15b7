"""The device profile: of this machine, or of a device named in `devices.toml`."""

from edgeinfer.device.detect import detect
from edgeinfer.device.devices import load_devices, named, slugs
from edgeinfer.device.profile import DeviceProfile, EngineSpeed

__all__ = ["DeviceProfile", "EngineSpeed", "detect", "load_devices", "named", "slugs"]
