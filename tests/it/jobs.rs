//! Jobs: journal, pause, cancel, resume, gate, publication.
