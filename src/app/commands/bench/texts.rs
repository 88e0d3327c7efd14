//! The texts that are sent: read from a file, or made of common words.

use serde::{Deserialize, Serialize};

use crate::domain::{Error, Result};

/// One input as the server takes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Text {
    Whole(String),
    /// Pre-split.
    Words(Vec<String>),
}

impl Text {
    fn words(&self) -> Vec<&str> {
        match self {
            Self::Whole(text) => text.split_whitespace().collect(),
            Self::Words(words) => words.iter().map(String::as_str).collect(),
        }
    }
}

/// JSON lines if the first line that is not blank opens an object, else one text a line. Blank lines are skipped.
pub(super) fn parse(bytes: &[u8], bytes_max: usize) -> Result<Vec<Text>> {
    if bytes.len() > bytes_max {
        return Err(Error::invalid(format!("{} bytes of texts; at most {bytes_max} are read", bytes.len())));
    }
    let content = std::str::from_utf8(bytes).map_err(|e| Error::invalid(format!("texts in UTF-8 are wanted: {e}")))?;
    let lines = content.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty()).peekable();
    let is_json = lines.peek().is_some_and(|(_, line)| line.starts_with('{'));
    let text = |(number, line): (usize, &str)| match is_json {
        true => json_line(line).map_err(|what| Error::invalid(format!("line {number}: {what}"))),
        false => Ok(Text::Whole(line.to_owned())),
    };
    let texts: Vec<Text> = lines.map(text).collect::<Result<_>>()?;
    match texts.is_empty() {
        true => Err(Error::invalid("no text in it; at least one is wanted")),
        false => Ok(texts),
    }
}

/// Other fields (labels, tags) are a data set's own business.
#[derive(Deserialize)]
struct Row {
    text: Option<String>,
    tokens: Option<Vec<String>>,
}

fn json_line(line: &str) -> Result<Text, String> {
    let row: Row = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let words = row.tokens.filter(|words| !words.is_empty()).map(Text::Words);
    row.text.map(Text::Whole).or(words).ok_or_else(|| "a field \"text\" or \"tokens\" is wanted".to_owned())
}

/// As many texts as before, each of exactly `count` words: from where it began on, over as many of the next as it takes.
pub(super) fn of_length(texts: &[Text], count: usize) -> Vec<Text> {
    let words: Vec<Vec<&str>> = texts.iter().map(Text::words).filter(|words| !words.is_empty()).collect();
    let joined = |from: usize| {
        let following = words[from..].iter().chain(words.iter().cycle()).flatten();
        Text::Whole(following.take(count).copied().collect::<Vec<_>>().join(" "))
    };
    (0..words.len()).map(joined).collect()
}

/// Each word is one token of a BERT vocabulary, so `--words 62` is 64 tokens with the two marks at the ends.
const WHO: [&str; 10] = [
    "my brother",
    "the manager",
    "our new client",
    "a friend of mine",
    "the woman at the bank",
    "nobody here",
    "every student",
    "the old doctor",
    "your team",
    "someone from london",
];
const DID: [&str; 10] = [
    "wants to change",
    "has lost",
    "cannot find",
    "asked me about",
    "is waiting for",
    "forgot to send",
    "really likes",
    "paid twice for",
    "will never understand",
    "would like to return",
];
const WHAT: [&str; 10] = [
    "the card",
    "a very good book",
    "that long letter",
    "the ticket to paris",
    "two small tables",
    "his first car",
    "the money",
    "this strange question",
    "an order from last week",
    "the name of the hotel",
];
const WHEN: [&str; 10] = [
    "today",
    "on monday morning",
    "before the end of the year",
    "after a long day at work",
    "as soon as possible",
    "for the third time",
    "without any reason",
    "in the middle of the night",
    "because it was late",
    "and nobody knows why",
];

/// 10,000 different sentences in texts of one to five: short ones are the most frequent, as in messages.
pub(super) fn built_in() -> Vec<Text> {
    const LENGTHS: [usize; 10] = [1, 2, 1, 3, 1, 1, 2, 5, 1, 4];
    // 3,333 has no factor in common with 10,000, so that neighbours differ in most parts and none comes twice.
    let mut sentences = (0..10_000).map(|at| sentence(at * 3_333 % 10_000));
    let lengths = LENGTHS.iter().cycle();
    let texts = lengths.map_while(|&length| {
        let part: Vec<String> = sentences.by_ref().take(length).collect();
        (!part.is_empty()).then(|| Text::Whole(part.join(" ")))
    });
    texts.collect()
}

fn sentence(number: usize) -> String {
    let digit = |place: usize| number / place % 10;
    [WHO[digit(1)], DID[digit(10)], WHAT[digit(100)], WHEN[digit(1000)]].join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MAX: usize = 1 << 20;

    fn whole(texts: &[&str]) -> Vec<Text> {
        texts.iter().map(|&text| Text::Whole(text.to_owned())).collect()
    }

    #[test]
    fn a_file_is_one_text_a_line_or_json_lines() {
        let words = Text::Words(vec!["Anna".to_owned(), "{".to_owned()]);
        for (file, wanted) in [
            ("one\n\n  two words \r\nthree", whole(&["one", "two words", "three"])),
            ("a line\n{not JSON", whole(&["a line", "{not JSON"])),
            ("\n{\"text\": \"é\\n\", \"label\": 3}\n{\"text\":\"b\"}\n", whole(&["é\n", "b"])),
            ("{\"tokens\": [\"Anna\", \"{\"], \"tags\": [\"B-PER\", \"O\"]}", vec![words]),
        ] {
            assert_eq!(parse(file.as_bytes(), MAX).unwrap(), wanted, "{file}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (file, wanted) in [
            (&b"\n \n"[..], "at least one"),
            (b"\xff", "UTF-8"),
            (b"{\"text\": \"a\"}\n\n{\"label\": 1}", "line 3: a field \"text\" or \"tokens\""),
            (b"{\"tokens\": []}", "line 1"),
            (b"{\"text\": \"a\"}\nplain", "line 2"),
        ] {
            let error = parse(file, MAX).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
        assert!(parse(b"12345", 4).unwrap_err().to_string().contains("at most 4"));
    }

    #[test]
    fn texts_of_a_length_are_cut_or_joined() {
        let texts = [whole(&["a b c", " ", "d"]), vec![Text::Words(vec!["e".into(), "f".into()])]].concat();
        assert_eq!(of_length(&texts, 2), whole(&["a b", "d e", "e f"]));
        assert_eq!(of_length(&texts, 7), whole(&["a b c d e f a", "d e f a b c d", "e f a b c d e"]));
    }

    #[test]
    fn no_built_in_text_comes_twice() {
        let texts = built_in();
        let distinct: HashSet<String> = texts.iter().map(|text| text.words().join(" ")).collect();
        assert_eq!(distinct.len(), texts.len());
        assert!(texts.len() > 4000);
    }
}
