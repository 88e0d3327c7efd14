//! An adapter upload: an archive as it is, or the files of a form made into one, so that one reader checks both.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;

use crate::domain::{Error, Result};
use crate::serving::archive_of;
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::extract::{demand_encoding, read_upload};

/// A PEFT folder has three files; a checkpoint's others, which are skipped, are a dozen or two.
const FILES_MAX: usize = 64;

/// What an archive may be compressed with.
const ARCHIVE_ENCODINGS: [&str; 2] = ["gzip", "x-gzip"];

/// The bytes of a `.tar` or `.tar.gz`.
pub(in crate::transport) struct AdapterUpload(pub(in crate::transport) Vec<u8>);

impl FromRequest<Arc<Api>> for AdapterUpload {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let is_form = |value: &HeaderValue| value.as_bytes().starts_with(b"multipart/form-data");
        let form_type = request.headers().get(CONTENT_TYPE).filter(|value| is_form(value)).cloned();
        demand_encoding(request.headers(), if form_type.is_some() { &[] } else { &ARCHIVE_ENCODINGS })?;
        let bytes = read_upload(request, api).await?;
        let Some(form_type) = form_type else { return Ok(Self(bytes.into())) };
        let mut form = Request::new(Body::from(bytes));
        form.headers_mut().insert(CONTENT_TYPE, form_type);
        let form = Multipart::from_request(form, api).await;
        let form = form.map_err(|fault| Error::invalid(format!("multipart: {}", fault.body_text())))?;
        Ok(Self(pack(form).await?))
    }
}

async fn pack(mut form: Multipart) -> Result<Vec<u8>> {
    let mut files: Vec<(String, Bytes)> = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        if files.len() == FILES_MAX {
            return Err(Error::invalid(format!("multipart: more than {FILES_MAX} files")));
        }
        let name = field.file_name().or(field.name()).unwrap_or_default().to_owned();
        files.push((name, field.bytes().await.map_err(broken)?));
    }
    archive_of(files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])))
}

fn broken(fault: MultipartError) -> Error {
    Error::invalid(format!("multipart: {}", fault.body_text()))
}
