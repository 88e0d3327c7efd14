//! A report as blocks, written once as Markdown and once as one HTML page. Knows nothing of studies.

use std::fmt::Write as _;

/// What a report is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Block {
    /// From 1, the title.
    Heading(usize, String),
    Paragraph(String),
    /// Lines that are kept as they are.
    Code(String),
    Table {
        head: Vec<String>,
        rows: Vec<Vec<String>>,
    },
    /// A file beside the report, and what it shows.
    Figure {
        file: String,
        caption: String,
    },
    /// Written by hand; a reader of Markdown understands it.
    Prose(String),
}

impl Block {
    pub(super) fn heading(level: usize, text: &str) -> Self {
        Self::Heading(level, text.to_owned())
    }

    pub(super) fn paragraph(text: impl Into<String>) -> Self {
        Self::Paragraph(text.into())
    }

    pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self::Table { head: head.iter().map(|&cell| cell.to_owned()).collect(), rows }
    }
}

pub(super) fn markdown(blocks: &[Block]) -> String {
    let text = |block: &Block| match block {
        Block::Heading(level, text) => format!("{} {text}\n", "#".repeat(*level)),
        Block::Paragraph(text) | Block::Prose(text) => format!("{}\n", text.trim_end()),
        Block::Code(text) => format!("```\n{}\n```\n", text.trim_end()),
        Block::Table { head, rows } => {
            let row = |cells: &[String]| {
                format!("| {} |\n", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
            };
            let rule = format!("|{}\n", " --- |".repeat(head.len()));
            row(head) + &rule + &rows.iter().map(|cells| row(cells)).collect::<String>()
        }
        Block::Figure { file, caption } => format!("![{caption}]({file})\n"),
    };
    blocks.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Complete, without scripts; figures are files beside it.
pub(super) fn html(title: &str, blocks: &[Block]) -> String {
    let mut page =
        format!("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n", escape(title));
    page += STYLE;
    page += "</head><body>\n";
    blocks.iter().for_each(|block| push_html(&mut page, block));
    page + "</body></html>\n"
}

const STYLE: &str = "<style>\
body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0;font-size:13px}\
th,td{border:1px solid #ccc;padding:.2em .6em;text-align:right}\
th:first-child,td:first-child{text-align:left}th{background:#f4f4f4}\
pre{background:#f4f4f4;padding:1em;overflow-x:auto}img{max-width:100%}\
</style>\n";

fn push_html(page: &mut String, block: &Block) {
    // writing to a string does not fail
    let _ = match block {
        Block::Heading(level, text) => writeln!(page, "<h{level}>{}</h{level}>", inline(text)),
        Block::Paragraph(text) => writeln!(page, "<p>{}</p>", inline(text)),
        Block::Code(text) => writeln!(page, "<pre>{}</pre>", escape(text.trim_end())),
        Block::Figure { file, caption } => {
            writeln!(page, "<p><img src=\"{}\" alt=\"{}\"></p>", escape(file), escape(caption))
        }
        Block::Table { head, rows } => {
            let row = |tag: &str, cells: &[String]| {
                let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", inline(cell))).collect();
                format!("<tr>{cells}</tr>\n")
            };
            let rows: String = rows.iter().map(|cells| row("td", cells)).collect();
            writeln!(page, "<table>\n{}{rows}</table>", row("th", head))
        }
        Block::Prose(text) => {
            text.split("\n\n").filter(|part| !part.trim().is_empty()).for_each(|part| push_prose(page, part.trim()));
            Ok(())
        }
    };
}

/// Headings, lists and paragraphs: what a conclusion is written with.
fn push_prose(page: &mut String, part: &str) {
    let level = part.chars().take_while(|&c| c == '#').count();
    let html = if (1..=6).contains(&level) && !part.contains('\n') {
        format!("<h{level}>{}</h{level}>", inline(part[level..].trim()))
    } else if part.lines().all(|line| line.starts_with("- ") || line.starts_with("  ")) {
        let items = part.split("\n- ").map(|item| format!("<li>{}</li>", inline(item.trim_start_matches("- "))));
        format!("<ul>{}</ul>", items.collect::<String>())
    } else {
        format!("<p>{}</p>", inline(part))
    };
    *page += &html;
    page.push('\n');
}

/// Escaped, with `**bold**` and `` `code` `` as they are meant.
fn inline(text: &str) -> String {
    pairs(&pairs(&escape(text), "**", "b"), "`", "code")
}

fn pairs(text: &str, mark: &str, tag: &str) -> String {
    let parts: Vec<&str> = text.split(mark).collect();
    if parts.len().is_multiple_of(2) {
        return text.to_owned(); // a mark without its twin is only a mark
    }
    let part =
        |(at, part): (usize, &&str)| if at % 2 == 1 { format!("<{tag}>{part}</{tag}>") } else { (*part).to_owned() };
    parts.iter().enumerate().map(part).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Block> {
        vec![
            Block::heading(1, "A & B"),
            Block::paragraph("less < **more**"),
            Block::table(&["set", "a|b"], vec![vec!["x".to_owned(), "1".to_owned()]]),
            Block::Figure { file: "a.svg".to_owned(), caption: "what it shows".to_owned() },
            Block::Prose("## Holds\n\nIt does, `mostly`.\n\n- one\n- two < three\n".to_owned()),
            Block::Code("k = 2\n".to_owned()),
        ]
    }

    #[test]
    fn blocks_are_written_as_markdown() {
        let expected = "# A & B\n\nless < **more**\n\n| set | a\\|b |\n| --- | --- |\n| x | 1 |\n\n![what it shows](a.svg)\n\n\
                        ## Holds\n\nIt does, `mostly`.\n\n- one\n- two < three\n\n```\nk = 2\n```\n";
        assert_eq!(markdown(&blocks()), expected);
    }

    #[test]
    fn blocks_are_written_as_a_page_with_nothing_unescaped() {
        let page = html("A & B", &blocks());
        for part in [
            "<title>A &amp; B</title>",
            "<h1>A &amp; B</h1>",
            "<p>less &lt; <b>more</b></p>",
            "<tr><th>set</th><th>a|b</th></tr>",
            "<img src=\"a.svg\" alt=\"what it shows\">",
            "<h2>Holds</h2>",
            "<p>It does, <code>mostly</code>.</p>",
            "<ul><li>one</li><li>two &lt; three</li></ul>",
            "<pre>k = 2</pre>",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn a_mark_without_its_twin_stays() {
        assert_eq!(inline("2 ** 3 and `x`"), "2 ** 3 and <code>x</code>");
    }
}
