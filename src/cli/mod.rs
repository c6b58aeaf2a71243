//! Commands, flags, exit codes.
