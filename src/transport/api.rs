//! What every handler holds: the services, the limits and the keys.

use crate::transport::auth::Keys;
use crate::transport::{Services, TransportConfig};

pub(super) struct Api {
    pub(super) services: Services,
    pub(super) keys: Keys,
    /// Whether `/metrics` answers without a key.
    pub(super) metrics_public: bool,
    /// Bytes of an inference request's body.
    pub(super) body_bytes_max: usize,
    /// Inputs of one request.
    pub(super) inputs_max: usize,
    /// Bytes of an upload.
    pub(super) upload_bytes_max: usize,
}

impl Api {
    pub(super) fn new(services: Services, config: &TransportConfig) -> Self {
        Self {
            services,
            keys: Keys::new(config.admin_key.as_deref(), config.infer_key.as_deref()),
            metrics_public: config.metrics_public,
            body_bytes_max: config.body_bytes_max,
            inputs_max: config.inputs_max,
            upload_bytes_max: config.upload_bytes_max,
        }
    }
}
