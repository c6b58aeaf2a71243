//! Attach, the window, detach, repair.
