//! The request path: batches, fairness, deadlines, isolation.
