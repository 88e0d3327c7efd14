//! `trunkline openapi`.

use crate::app::commands::print;
use crate::domain::Result;
use crate::transport::openapi_json;

pub(in crate::app) fn run() -> Result<()> {
    print(&openapi_json())
}
