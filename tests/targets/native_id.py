"""The kernel's id of the calling thread, also where `threading` can't tell (before 3.8)."""
import threading


def _by_system_call():
    import ctypes
    return ctypes.CDLL(None).syscall(186)


get_native_id = getattr(threading, "get_native_id", None) or _by_system_call
get_native_id()
