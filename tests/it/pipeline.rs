//! Entities equal the token-classification pipeline's.
