//! Encoders equal the reference library on every architecture.
