//! Fetching, verifying and caching the backbone.
