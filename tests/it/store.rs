//! Versions on disk: publish whole or not at all.
