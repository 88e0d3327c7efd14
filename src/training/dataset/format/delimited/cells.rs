//! A table's cell as a value: text, or a list as JSON, Python or NumPy print one.

use serde_json::{Map, Number, Value};

/// Lists within lists: a list of spans has two levels, and what reads them recurses.
const DEPTH_MAX: usize = 8;

/// What a cell holds.
#[derive(Debug, PartialEq)]
pub(super) enum Cell {
    /// Text, or JSON.
    Plain(Value),
    /// A list as a program prints it.
    Printed(Value),
    /// It begins and ends as a list, and is none.
    Broken,
}

/// Reads the cell of a column that may hold lists.
pub(super) fn read(text: &str) -> Cell {
    let trimmed = text.trim();
    let is_within =
        |open: char, close: char| trimmed.len() > 1 && trimmed.starts_with(open) && trimmed.ends_with(close);
    let plain = || Cell::Plain(Value::String(text.to_owned()));
    if !is_within('[', ']') {
        let is_literal = is_within('{', '}') || is_within('(', ')');
        let literal = is_literal.then(|| json(trimmed).map(Cell::Plain).or_else(|| python(trimmed).map(Cell::Printed)));
        return literal.flatten().unwrap_or_else(plain);
    }
    let list = json(trimmed).map(Cell::Plain).or_else(|| python(trimmed).map(Cell::Printed));
    list.or_else(|| bare_words(trimmed).map(Cell::Printed)).unwrap_or(Cell::Broken)
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// `[late, rude]`.
fn bare_words(text: &str) -> Option<Value> {
    let words: Vec<&str> = text[1..text.len() - 1].split(',').map(str::trim).collect();
    let is_word = |word: &&str| !word.is_empty() && !word.contains(['[', ']', '{', '}', '"', '\'']);
    words.iter().all(is_word).then(|| words.into_iter().map(Value::from).collect())
}

fn python(text: &str) -> Option<Value> {
    let mut literal = Literal { rest: text };
    let value = literal.value(0)?;
    literal.skip_blanks();
    literal.rest.is_empty().then_some(value)
}

/// What is left of a literal of Python's.
struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, sign: char) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth == DEPTH_MAX {
            return None;
        }
        self.skip_blanks();
        match self.rest.chars().next()? {
            '[' => self.list('[', ']', depth),
            '(' => self.list('(', ')', depth),
            '{' => self.braces(depth),
            quote @ ('\'' | '"') => self.string(quote).map(Value::String),
            _ => self.word(),
        }
    }

    /// Commas part the values; NumPy has blanks alone.
    fn list(&mut self, open: char, close: char, depth: usize) -> Option<Value> {
        self.take(open);
        let mut values = Vec::new();
        while !self.take(close) {
            values.push(self.value(depth + 1)?);
            self.take(',');
        }
        Some(Value::Array(values))
    }

    /// A dictionary, or a set.
    fn braces(&mut self, depth: usize) -> Option<Value> {
        self.take('{');
        let (mut fields, mut values) = (Map::new(), Vec::new());
        while !self.take('}') {
            let value = self.value(depth + 1)?;
            if self.take(':') {
                let Value::String(key) = value else { return None };
                fields.insert(key, self.value(depth + 1)?);
            } else {
                values.push(value);
            }
            self.take(',');
        }
        match (fields.is_empty(), values.is_empty()) {
            (true, _) => Some(Value::Array(values)),
            (false, true) => Some(Value::Object(fields)),
            (false, false) => None,
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        self.take(quote);
        let (mut text, mut escaped) = (String::new(), false);
        for (at, c) in self.rest.char_indices() {
            match c {
                _ if escaped => {
                    text.push(match c {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        c => c,
                    });
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }

    /// A number, or one of Python's constants.
    fn word(&mut self) -> Option<Value> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_');
        let end = self.rest.find(|c: char| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "None" | "nan" => Some(Value::Null),
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            number => {
                let whole = number.parse::<i64>().ok().map(Value::from);
                whole.or_else(|| Number::from_f64(number.parse().ok()?).map(Value::Number))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_read_however_they_were_printed() {
        let plain = |text: &str, wanted: Value| assert_eq!(read(text), Cell::Plain(wanted), "{text}");
        let printed = |text: &str, wanted: Value| assert_eq!(read(text), Cell::Printed(wanted), "{text}");
        plain("late", json!("late"));
        plain("(other)", json!("(other)"));
        plain("{late}", json!("{late}"));
        plain(r#"["late", "rude"]"#, json!(["late", "rude"]));
        plain(r#"{"choices": ["late"]}"#, json!({"choices": ["late"]}));
        plain("[]", json!([]));
        printed("['late', 'rude']", json!(["late", "rude"]));
        printed("['late' 'rude']", json!(["late", "rude"]));
        printed(r#"["it's", 'a \'b\'']"#, json!(["it's", "a 'b'"]));
        printed("('late',)", json!(["late"]));
        printed("{'late', 'rude'}", json!(["late", "rude"]));
        printed("[(0, 4, 'PER')]", json!([[0, 4, "PER"]]));
        printed(
            "[{'start': 0, 'end': 4, 'label': 'PER', 'x': None}]",
            json!([{"start": 0, "end": 4, "label": "PER", "x": null}]),
        );
        printed("[late, very rude]", json!(["late", "very rude"]));
        for broken in ["['late", "[\"late]", "[a, , b]", "[['a]]"] {
            assert_eq!(read(&format!("{broken}]")), Cell::Broken, "{broken}");
        }
        let deep = format!("{}'late'{}", "[".repeat(50), "]".repeat(50));
        assert_eq!(read(&deep), Cell::Broken);
    }
}
