//! The thread that runs jobs, one at a time.
