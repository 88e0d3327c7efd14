//! The journal: jobs and their events in SQLite.
