//! Records of tab-separated text, which has no quoting: a cell may begin with a quote. What spreadsheets quote whole is understood
//! nonetheless, with a warning, also over several lines.

use crate::training::dataset::limits::ROW_BYTES_MAX;

/// Lines that a quoted cell may have; a quote that nobody closes is looked for no further.
const QUOTED_LINES_MAX: usize = 32;

/// A record: its first line, its cells, and whether quotes were taken off.
pub(super) struct Record {
    pub(super) line: usize,
    pub(super) cells: Vec<String>,
    pub(super) is_quoted: bool,
}

/// The records of `text`, each with as many cells as the first if that can be.
pub(super) struct Records<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Lines<'a>>>,
    rest: Vec<(usize, &'a str)>,
    width: usize,
}

impl<'a> Records<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { lines: text.lines().enumerate().peekable(), rest: Vec::new(), width: 0 }
    }

    fn next_line(&mut self) -> Option<(usize, &'a str)> {
        self.rest.pop().or_else(|| self.lines.next().map(|(at, line)| (at + 1, line)))
    }

    /// The record that begins with `first` and goes on over the next lines, if quotes make one of the right width.
    fn over_lines(&mut self, first: &str) -> Option<Vec<String>> {
        let mut joined = first.to_owned();
        let mut taken = Vec::new();
        let mut read = quoted(&joined);
        while matches!(read, Quoted::Open) && taken.len() < QUOTED_LINES_MAX && joined.len() < ROW_BYTES_MAX {
            let Some((at, line)) = self.next_line() else { break };
            taken.push((at, line));
            joined.push('\n');
            joined.push_str(line);
            // The cell ends on a line with a quote.
            if line.contains('"') {
                read = quoted(&joined);
            }
        }
        let found = match read {
            Quoted::Whole(cells) if cells.len() == self.width => Some(cells),
            _ => None,
        };
        if found.is_none() {
            self.rest.extend(taken.into_iter().rev());
        }
        found
    }

    /// Whether the last cell opens a quote, and the next line is no record.
    fn goes_on(&mut self, cells: &[&str]) -> bool {
        let is_open = cells.last().is_some_and(|cell| cell.starts_with('"') && whole(cell).is_none());
        let next = match self.rest.last() {
            Some((_, line)) => Some(*line),
            None => self.lines.peek().map(|(_, line)| *line),
        };
        is_open && next.is_some_and(|line| line.split('\t').count() != self.width)
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let (line, text) = loop {
            let (at, text) = self.next_line()?;
            if !text.trim().is_empty() {
                break (at, text);
            }
        };
        let plain: Vec<&str> = text.split('\t').collect();
        let fits = self.width == 0 || plain.len() == self.width;
        if text.contains('"')
            && (!fits || self.goes_on(&plain))
            && let Some(cells) = self.over_lines(text)
        {
            return Some(Record { line, cells, is_quoted: true });
        }
        if self.width == 0 {
            self.width = plain.len();
        }
        let is_quoted = plain.iter().any(|cell| whole(cell).is_some());
        let cells = plain.iter().map(|cell| whole(cell).unwrap_or_else(|| (*cell).to_owned())).collect();
        Some(Record { line, cells, is_quoted })
    }
}

/// A cell that is quoted whole, without its quotes. None: it is not.
fn whole(cell: &str) -> Option<String> {
    let inner = cell.trim_end_matches('\r').strip_prefix('"')?.strip_suffix('"')?;
    let undoubled = inner.replace("\"\"", "");
    (!undoubled.contains('"')).then(|| inner.replace("\"\"", "\""))
}

/// What quoting as in RFC 4180 makes of a text.
enum Quoted {
    Whole(Vec<String>),
    /// A quote is open at the end.
    Open,
    /// A quote is closed before the end of its cell.
    Broken,
}

fn quoted(text: &str) -> Quoted {
    let mut cells = Vec::new();
    let mut rest = text;
    loop {
        let (cell, behind) = match rest.strip_prefix('"').map(unquoted) {
            Some(Some(read)) => read,
            Some(None) => return Quoted::Open,
            None => {
                let end = rest.find('\t').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        cells.push(cell);
        match behind.strip_prefix('\t') {
            Some(behind) => rest = behind,
            None if behind.trim().is_empty() => return Quoted::Whole(cells),
            None => return Quoted::Broken,
        }
    }
}

/// The text up to the closing quote, and what is behind it.
fn unquoted(inner: &str) -> Option<(String, &str)> {
    let mut from = 0;
    loop {
        let quote = from + inner[from..].find('"')?;
        if !inner[quote + 1..].starts_with('"') {
            return Some((inner[..quote].replace("\"\"", "\""), &inner[quote + 1..]));
        }
        from = quote + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_begins_a_cell_as_any_other_sign_unless_a_spreadsheet_wrote_it() {
        let check = |text: &str, wanted: &[(usize, &str)]| {
            let got: Vec<_> = Records::of(text).map(|record| (record.line, record.cells.join("|"))).collect();
            let wanted: Vec<_> = wanted.iter().map(|(line, cells)| (*line, (*cells).to_owned())).collect();
            assert_eq!(got, wanted, "{text:?}");
        };
        check("t\tl\n\"tis\tx\nb\ty\n\"c\tz\n", &[(1, "t|l"), (2, "\"tis|x"), (3, "b|y"), (4, "\"c|z")]);
        check("t\tl\n\"pay \"\"now\"\"\"\tx\n", &[(1, "t|l"), (2, "pay \"now\"|x")]);
        check("t\tl\n\"one\ntwo\"\tx\nb\ty\n", &[(1, "t|l"), (2, "one\ntwo|x"), (4, "b|y")]);
        check("l\tt\nx\t\"one\ntwo\"\ny\tb\n", &[(1, "l|t"), (2, "x|one\ntwo"), (4, "y|b")]);
        check("t\tl\n\"a\tb\"\tx\n", &[(1, "t|l"), (2, "a\tb|x")]);
        check("t\tl\n\n\"open\n\nb\ty\n", &[(1, "t|l"), (3, "\"open"), (5, "b|y")]);
        check("t\tl\n\"a\" and \"b\"\tx\n", &[(1, "t|l"), (2, "\"a\" and \"b\"|x")]);
    }
}
