//! The committed OpenAPI document and protobuf code are what the code says.
