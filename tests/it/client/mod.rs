//! Generated gRPC clients of `proto/trunkline/v1`, for the tests alone.

#[allow(clippy::all, clippy::pedantic, unreachable_pub, unused_imports)]
#[rustfmt::skip]
mod v1;

pub(crate) use v1::admin_client::AdminClient;
pub(crate) use v1::inference_client::InferenceClient;
