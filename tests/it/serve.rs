//! The real binary: start, answer, drain, crash.
