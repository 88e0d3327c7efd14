//! The one integration-test binary.

#![allow(clippy::unwrap_used)] // a test that cannot go on says where

mod architecture;
mod architectures;
mod backbone;
mod bench;
mod client;
mod connections;
mod contract;
mod datasets;
mod degraded;
mod doors;
mod evaluation;
mod fine_tune;
mod gradients;
mod grpc;
mod heads;
mod inference;
mod jobs;
mod peft;
mod pipeline;
mod publication;
mod rest;
mod serve;
mod shipped;
mod signals;
mod store;
mod study;
mod support;
