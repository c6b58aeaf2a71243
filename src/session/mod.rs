//! Attach, the window, detach, repair.

mod guardian;
mod output;
mod sampler;
mod signals;
