//! The room against real interpreters: every CPython of pyenv and the system's, running small programs that
//! print what they know about themselves.

mod description;
mod embedded;
mod hostile;
mod images;
mod interpreters;
mod refusals;
mod roots;
mod stacks;
mod target;
mod thread_names;
