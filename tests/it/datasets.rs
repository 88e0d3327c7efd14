//! Uploads, formats and the doctor.
