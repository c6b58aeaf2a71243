//! CPython as data.
