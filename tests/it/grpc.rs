//! gRPC as a client sees it.
