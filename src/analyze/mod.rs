//! Pure functions from records to tables.
