//! Stop a thread of another process, make it call the kernel, read its modules, change its GOT slots, let it go.
