//! An adapter upload: an archive as it is, or the files of a form packed into one, so that one reader checks both.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header::CONTENT_TYPE;

use crate::domain::{Error, Result};
use crate::transport::api::Api;
use crate::transport::error::Failure;
use crate::transport::extract::read;

/// A PEFT folder has three files; a few more are let through to be named in an error.
const FILES_MAX: usize = 16;

/// The bytes of a `.tar` or `.tar.gz`.
pub(in crate::transport) struct AdapterUpload(pub(in crate::transport) Vec<u8>);

impl FromRequest<Arc<Api>> for AdapterUpload {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let bytes = read(body, api.upload_bytes_max).await?;
        let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(|value| value.starts_with("multipart/form-data")) {
            return Ok(Self(bytes.into()));
        }
        let form = Multipart::from_request(Request::from_parts(parts, Body::from(bytes)), api).await;
        let form = form.map_err(|fault| Error::invalid(format!("multipart: {}", fault.body_text())))?;
        Ok(Self(pack(form).await?))
    }
}

async fn pack(mut form: Multipart) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut files = 0;
    let fault =
        |fault: axum::extract::multipart::MultipartError| Error::invalid(format!("multipart: {}", fault.body_text()));
    while let Some(field) = form.next_field().await.map_err(fault)? {
        files += 1;
        if files > FILES_MAX {
            return Err(Error::invalid(format!("multipart: more than {FILES_MAX} files")));
        }
        let name = field.file_name().or(field.name()).unwrap_or_default().to_owned();
        append(&mut archive, &name, &field.bytes().await.map_err(fault)?)?;
    }
    Ok(archive.into_inner()?)
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &Bytes) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    let refused = |_| Error::invalid(format!("multipart: {name:?} cannot be a file's name in an adapter folder"));
    archive.append_data(&mut header, name, &bytes[..]).map_err(refused)
}
