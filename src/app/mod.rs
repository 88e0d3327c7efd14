//! Configuration and wiring: the command line, parts built bottom-up, signal to drained.
