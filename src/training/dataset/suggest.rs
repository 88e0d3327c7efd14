//! Whether a file that makes no sense as one family makes sense as another.

use crate::domain::Cancel;

use super::DatasetFamily;
use super::findings::Code;
use super::format;
use super::options::ReadOptions;
use super::place::Place;
use super::row::Rows;

/// Rows that are tried: what they are, the others are too.
const ROWS_TRIED: usize = 50;

/// Adds an error that names the family, where `rows` came to nothing and another family reads the bytes.
pub(super) fn other_family(bytes: &[u8], rows: &mut Rows, cancel: &Cancel) {
    if !rows.came_to_nothing() {
        return;
    }
    let others = [DatasetFamily::Ner, DatasetFamily::Classify, DatasetFamily::Pairs];
    let fitting =
        others.into_iter().filter(|family| *family != rows.family).find(|family| fits(*family, bytes, cancel));
    if let Some(family) = fitting {
        let message =
            format!("it was read as {}, and reads as {family}: family={family} is probably meant", rows.family);
        rows.findings.error(Code::OtherFamily, &Place::file(), message);
    }
}

/// Whether nearly all of the first rows are good ones of `family`, with labels if the family has them.
fn fits(family: DatasetFamily, bytes: &[u8], cancel: &Cancel) -> bool {
    let mut rows = Rows::tried(family, &ReadOptions::default(), ROWS_TRIED, cancel);
    format::read(bytes, &mut rows);
    let good = rows.kept.len();
    let is_labelled = family == DatasetFamily::Pairs || !rows.labels.is_empty();
    good > 0 && is_labelled && 10 * good >= 9 * rows.seen()
}
