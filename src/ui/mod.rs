//! Terminal width and progress.
