//! Which modules an adapter's configuration means, and with what rank and alpha: PEFT's rules for names, on names such as
//! `bert.encoder.layer.4.attention.self.query`. Pure.
//!
//! A backbone has a few hundred modules, so a configuration is resolved against all of them at once: one pattern is compiled, matched
//! and dropped before the next. What that may cost is bounded by the constants below, whoever wrote the configuration.

use fancy_regex::{Captures, CompileError, Expr, LookAround, Regex};

use crate::adapter::{LoraConfig, TargetModules};
use crate::domain::{Error, Result};

/// Names or patterns of one key: one for every linear of an encoder of 64 layers, which is what rank allocation writes.
const ENTRIES_MAX: usize = 1024;

/// Bytes of one name or pattern; real ones have a few dozen, generated regular expressions several hundred.
const PATTERN_BYTES_MAX: usize = 2048;

/// Patterns of a configuration that need a regular expression (names with dots do not), and their bytes.
const EXPRESSIONS_MAX: usize = 32;
const EXPRESSIONS_BYTES_MAX: usize = 4096;

/// Bytes of a compiled expression: `\w`, with all letters of Unicode, takes 50 kB.
const COMPILED_BYTES_MAX: usize = 256 << 10;

/// Steps one match may take; a pattern that needs more is an attack, not a name.
const BACKTRACK_MAX: usize = 10_000;

/// Characters of a pattern that an error quotes.
const QUOTED_CHARS_MAX: usize = 60;

/// The list that holds the layers, where the configuration does not name it.
const ANY_LIST: &str = "[^.]*";

/// What the configuration means for each of `modules`, in their order: (rank, scale) of its update, None for no update.
pub(crate) fn resolve(config: &LoraConfig, modules: &[String]) -> Result<Vec<Option<(usize, f64)>>> {
    let chosen = chosen(config, modules)?;
    let ranks = first_matches(config.rank_pattern.iter().map(|(p, &rank)| (p, rank)), modules, &chosen)?;
    let alphas = first_matches(config.alpha_pattern.iter().map(|(p, &alpha)| (p, alpha)), modules, &chosen)?;
    let update = |at: usize| {
        let (rank, alpha) = (ranks[at].unwrap_or(config.rank), alphas[at].unwrap_or(config.alpha));
        (rank, config.scale(alpha, rank))
    };
    Ok((0..modules.len()).map(|at| chosen[at].then(|| update(at))).collect())
}

/// Whether the patterns are few, short and well formed enough to be resolved; nothing is compiled. Every problem is told.
pub(crate) fn check(config: &LoraConfig) -> Vec<String> {
    let ends = config.rank_pattern.keys().chain(config.alpha_pattern.keys()).filter(|pattern| !is_plain(pattern));
    let lists = config.layers_pattern.iter();
    let selectors = [Some(&config.target_modules), config.exclude_modules.as_ref()].into_iter().flatten();
    let whole = selectors.clone().filter_map(TargetModules::expression);
    let expressions: Vec<&str> = ends.chain(lists).map(String::as_str).chain(whole).collect();
    let mut problems = too_many(config);
    let bytes: usize = expressions.iter().map(|expression| expression.len()).sum();
    if expressions.len() > EXPRESSIONS_MAX || bytes > EXPRESSIONS_BYTES_MAX {
        problems.push(format!(
            "{} regular expressions of {bytes} bytes in all; at most {EXPRESSIONS_MAX} of {EXPRESSIONS_BYTES_MAX} bytes are compiled",
            expressions.len()
        ));
    }
    if problems.is_empty() {
        problems.extend(expressions.iter().filter_map(|expression| malformed(expression)));
    }
    problems
}

/// Why this is no expression, or not one whose compiled size we can bound.
fn malformed(expression: &str) -> Option<String> {
    match Expr::parse_tree(expression) {
        Err(error) => Some(not_one(expression, &error)),
        Ok(tree) if looks_back_over_any_length(&tree.expr) => {
            let quoted = quoted(expression);
            Some(format!(
                "{quoted:?} looks back over text of no fixed length, which Python's expressions cannot either"
            ))
        }
        Ok(_) => None,
    }
}

/// Whether a look-behind has no fixed width: it alone would be compiled without a bound.
fn looks_back_over_any_length(expr: &Expr) -> bool {
    match expr {
        Expr::LookAround(inner, LookAround::LookBehind | LookAround::LookBehindNeg) => {
            width(inner).is_none() || looks_back_over_any_length(inner)
        }
        Expr::LookAround(inner, _) | Expr::Group(inner) | Expr::AtomicGroup(inner) => looks_back_over_any_length(inner),
        Expr::Repeat { child, .. } => looks_back_over_any_length(child),
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().any(looks_back_over_any_length),
        Expr::Conditional { condition, true_branch, false_branch } => {
            [condition, true_branch, false_branch].into_iter().any(|part| looks_back_over_any_length(part))
        }
        _ => false,
    }
}

/// Characters that an expression without repetitions matches, if all its alternatives are as long.
fn width(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Empty | Expr::Assertion(_) | Expr::LookAround(..) => Some(0),
        Expr::Any { .. } => Some(1),
        Expr::Literal { val, .. } => Some(val.chars().count()),
        Expr::Delegate { size, .. } => Some(*size),
        Expr::Group(inner) | Expr::AtomicGroup(inner) => width(inner),
        Expr::Concat(parts) => parts.iter().map(width).sum(),
        Expr::Alt(parts) => {
            let first = width(parts.first()?)?;
            parts.iter().all(|part| width(part) == Some(first)).then_some(first)
        }
        _ => None,
    }
}

/// Lists and maps with too many entries, or entries that are too long.
fn too_many(config: &LoraConfig) -> Vec<String> {
    let names = |modules: Option<&TargetModules>| match modules {
        Some(TargetModules::Suffixes(names)) => names.iter().map(String::len).collect(),
        Some(TargetModules::Regex(pattern)) => vec![pattern.len()],
        Some(TargetModules::AllLinear) | None => Vec::new(),
    };
    let lengths: [(&str, Vec<usize>); 7] = [
        ("target_modules", names(Some(&config.target_modules))),
        ("exclude_modules", names(config.exclude_modules.as_ref())),
        ("layers_pattern", config.layers_pattern.iter().map(String::len).collect()),
        ("layers_to_transform", config.layers_to_transform.iter().flatten().map(|_number| 1).collect()),
        ("rank_pattern", config.rank_pattern.keys().map(String::len).collect()),
        ("alpha_pattern", config.alpha_pattern.keys().map(String::len).collect()),
        ("modules_to_save", config.modules_to_save.iter().map(String::len).collect()),
    ];
    let problem = |(key, lengths): (&str, Vec<usize>)| {
        let longest = lengths.iter().max().copied().unwrap_or(0);
        if lengths.len() > ENTRIES_MAX {
            return Some(format!("{key} has {} entries; at most {ENTRIES_MAX} are read", lengths.len()));
        }
        let wanted = format!("{key} has an entry of {longest} bytes; at most {PATTERN_BYTES_MAX} are read");
        (longest > PATTERN_BYTES_MAX).then_some(wanted)
    };
    lengths.into_iter().filter_map(problem).collect()
}

/// Which modules get an update.
fn chosen(config: &LoraConfig, modules: &[String]) -> Result<Vec<bool>> {
    let excluded = match &config.exclude_modules {
        Some(excluded) => matching(excluded, modules)?,
        None => vec![false; modules.len()],
    };
    let wanted = matching(&config.target_modules, modules)?;
    let in_layer = in_chosen_layers(config, modules)?;
    // A module listed by its whole name is meant whatever its layer.
    let is_whole =
        |module: &String| matches!(&config.target_modules, TargetModules::Suffixes(names) if names.contains(module));
    let is_chosen = |(at, module): (usize, &String)| !excluded[at] && wanted[at] && (in_layer[at] || is_whole(module));
    Ok(modules.iter().enumerate().map(is_chosen).collect())
}

fn matching(wanted: &TargetModules, modules: &[String]) -> Result<Vec<bool>> {
    match wanted {
        TargetModules::Suffixes(names) => {
            let is_meant = |module: &String| names.iter().any(|name| ends_with(module, name));
            Ok(modules.iter().map(is_meant).collect())
        }
        TargetModules::Regex(pattern) => {
            let expression = compile(pattern, &format!("^(?:{pattern})$"))?;
            modules.iter().map(|module| expression.is_match(module).map_err(|e| too_hard(pattern, &e))).collect()
        }
        TargetModules::AllLinear => Ok(vec![true; modules.len()]),
    }
}

/// Whether each module is in one of `layers_to_transform`; the first of `layers_pattern` that finds a number in its name decides.
fn in_chosen_layers(config: &LoraConfig, modules: &[String]) -> Result<Vec<bool>> {
    let Some(layers) = &config.layers_to_transform else { return Ok(vec![true; modules.len()]) };
    let any_list = [ANY_LIST.to_owned()];
    let lists = if config.layers_pattern.is_empty() { &any_list[..] } else { &config.layers_pattern };
    let mut found: Vec<Option<bool>> = vec![None; modules.len()];
    for list in lists {
        let expression = compile(list, &format!(r"^.*\.{list}\.(?<n>\d+)\."))?;
        for (found, module) in found.iter_mut().zip(modules).filter(|(found, _)| found.is_none()) {
            let captures = expression.captures(module).map_err(|e| too_hard(list, &e))?;
            *found = captures.map(|captures| number(&captures).is_some_and(|layer| layers.contains(&layer)));
        }
    }
    Ok(found.into_iter().map(|found| found == Some(true)).collect())
}

fn number(captures: &Captures<'_>) -> Option<usize> {
    captures.name("n")?.as_str().parse().ok()
}

/// For each of the `chosen` modules the value of the first pattern that matches the end of its name.
fn first_matches<'a, T: Copy>(
    patterns: impl Iterator<Item = (&'a String, T)>,
    modules: &[String],
    chosen: &[bool],
) -> Result<Vec<Option<T>>> {
    let mut found = vec![None; modules.len()];
    for (pattern, value) in patterns {
        let end = End::new(pattern)?;
        for (at, module) in modules.iter().enumerate().filter(|(at, _)| chosen[*at]) {
            if found[at].is_none() && end.matches(module)? {
                found[at] = Some(value);
            }
        }
    }
    Ok(found)
}

/// A pattern for the last segments of a name: `^(.*\.)?(pattern)$`.
enum End<'a> {
    /// Without a regular expression's signs, but for the dot.
    Plain(&'a str),
    Expression(&'a str, Box<Regex>),
}

impl<'a> End<'a> {
    fn new(pattern: &'a str) -> Result<Self> {
        if is_plain(pattern) {
            return Ok(Self::Plain(pattern));
        }
        Ok(Self::Expression(pattern, Box::new(compile(pattern, &format!(r"^(.*\.)?({pattern})$"))?)))
    }

    fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Self::Plain(pattern) => Ok(ends_like(module.as_bytes(), pattern.as_bytes())),
            Self::Expression(pattern, expression) => expression.is_match(module).map_err(|e| too_hard(pattern, &e)),
        }
    }
}

fn is_plain(pattern: &str) -> bool {
    pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Whether `name` is the last segments of `module`.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// The same of a pattern in which a dot stands for any byte.
fn ends_like(module: &[u8], pattern: &[u8]) -> bool {
    let Some(at) = module.len().checked_sub(pattern.len()) else { return false };
    let (head, end) = module.split_at(at);
    let is_like = |(byte, wanted): (&u8, &u8)| *wanted == b'.' || byte == wanted;
    (head.is_empty() || head.ends_with(b".")) && end.iter().zip(pattern).all(is_like)
}

fn compile(pattern: &str, whole: &str) -> Result<Regex> {
    fancy_regex::RegexBuilder::new(whole)
        .backtrack_limit(BACKTRACK_MAX)
        .delegate_size_limit(COMPILED_BYTES_MAX)
        .delegate_dfa_size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|e| Error::unprocessable(not_one(pattern, &e)))
}

fn not_one(pattern: &str, error: &fancy_regex::Error) -> String {
    let pattern = quoted(pattern);
    if let fancy_regex::Error::CompileError(error) = error
        && matches!(&**error, CompileError::InnerError(inner) if inner.size_limit().is_some())
    {
        return format!("{pattern:?} is too large: a compiled expression may take {COMPILED_BYTES_MAX} bytes");
    }
    format!("{pattern:?} is not a regular expression: {}", quoted(&error.to_string()))
}

fn too_hard(pattern: &str, error: &fancy_regex::Error) -> Error {
    Error::unprocessable(format!("the pattern {:?} cannot be matched: {}", quoted(pattern), quoted(&error.to_string())))
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "bert.encoder.layer.4.attention.self.query";
    const OUTPUT: &str = "bert.encoder.layer.4.output.dense";
    const ATTENTION_OUTPUT: &str = "bert.encoder.layer.4.attention.output.dense";

    fn config(json: &str) -> LoraConfig {
        LoraConfig::from_json(format!(r#"{{"peft_type": "LORA", {json}}}"#).as_bytes()).unwrap()
    }

    fn update(config: &LoraConfig, module: &str) -> Result<Option<(usize, f64)>> {
        resolve(config, &[module.to_owned()]).map(|updates| updates[0])
    }

    fn contains(json: &str, module: &str) -> bool {
        update(&config(json), module).unwrap().is_some()
    }

    #[test]
    fn names_match_whole_path_segments_from_the_end() {
        for (targets, module, expected) in [
            (r#"["query"]"#, QUERY, true),
            (r#"["self.query"]"#, QUERY, true),
            (r#"["uery"]"#, QUERY, false),
            (r#"["bert"]"#, QUERY, false),
            (r#"["output.dense"]"#, OUTPUT, true),
            (r#"["output.dense"]"#, ATTENTION_OUTPUT, true),
            (r#"["attention.output.dense"]"#, OUTPUT, false),
            (r#""all-linear""#, OUTPUT, true),
            (r#""ALL-LINEAR""#, OUTPUT, true),
        ] {
            assert_eq!(contains(&format!(r#""target_modules": {targets}"#), module), expected, "{targets} on {module}");
        }
    }

    #[test]
    fn a_regular_expression_matches_the_whole_name() {
        for (pattern, expected) in [
            (r".*\\.query", true),
            (r".*layer\\.[45]\\..*query", true),
            (r"query", false),
            (r".*quer", false),
            (r"a|.*query", true),
            (r".*(?<!key)\\.query", true),
        ] {
            assert_eq!(contains(&format!(r#""target_modules": "{pattern}""#), QUERY), expected, "{pattern}");
        }
    }

    #[test]
    fn layers_narrow_a_list_of_names_but_not_a_whole_name() {
        for (json, expected) in [
            (r#""layers_to_transform": [4, 5]"#, true),
            (r#""layers_to_transform": 4"#, true),
            (r#""layers_to_transform": [0]"#, false),
            (r#""layers_to_transform": []"#, true),
            (r#""layers_to_transform": [4], "layers_pattern": "layer""#, true),
            (r#""layers_to_transform": [4], "layers_pattern": ["blocks", "layer"]"#, true),
            (r#""layers_to_transform": [4], "layers_pattern": "blocks""#, false),
            (r#""layers_to_transform": [4], "layers_pattern": """#, true),
        ] {
            assert_eq!(contains(&format!(r#""target_modules": ["query"], {json}"#), QUERY), expected, "{json}");
        }
        assert!(contains(&format!(r#""target_modules": ["{QUERY}"], "layers_to_transform": [0]"#), QUERY));
    }

    #[test]
    fn excluded_modules_get_nothing() {
        for (exclude, expected) in [
            (r#"["query"]"#, false),
            (r#"["value"]"#, true),
            (r#"".*layer\\.4\\..*""#, false),
            (r#"".*layer\\.5\\..*""#, true),
            ("[]", true),
            ("null", true),
        ] {
            let json = format!(r#""target_modules": ["query"], "exclude_modules": {exclude}"#);
            assert_eq!(contains(&json, QUERY), expected, "{exclude}");
        }
    }

    #[test]
    fn the_first_pattern_that_matches_a_names_end_gives_rank_and_alpha() {
        for (patterns, expected) in [
            (r#""r": 8, "lora_alpha": 16"#, (8, 2.0)),
            (r#""r": 4, "lora_alpha": 16, "use_rslora": true"#, (4, 8.0)),
            (r#""rank_pattern": {"query": 4}, "lora_alpha": 8"#, (4, 2.0)),
            (r#""rank_pattern": {"uery": 4}, "lora_alpha": 8"#, (8, 1.0)),
            (r#""rank_pattern": {"layer.[0-4].*": 2}, "alpha_pattern": {"query": 6}"#, (2, 3.0)),
            (r#""rank_pattern": {"self.query": 2, "query": 4}, "lora_alpha": 8"#, (4, 2.0)),
        ] {
            let config = config(&format!(r#""target_modules": ["query"], {patterns}"#));
            assert_eq!(update(&config, QUERY).unwrap(), Some(expected), "{patterns}");
        }
    }

    #[test]
    fn a_name_without_signs_means_the_same_with_and_without_an_expression() {
        for pattern in
            ["query", "self.query", "self-query", "uery", "l.yer.4.attention.self.query", QUERY, "x", "", "."]
        {
            let plain = End::new(pattern).unwrap();
            let expression =
                End::Expression(pattern, Box::new(compile(pattern, &format!(r"^(.*\.)?({pattern})$")).unwrap()));
            assert!(matches!(plain, End::Plain(_)), "{pattern}");
            for module in [QUERY, OUTPUT, ATTENTION_OUTPUT, "query", "x"] {
                let (plain, expression) = (plain.matches(module).unwrap(), expression.matches(module).unwrap());
                assert_eq!(plain, expression, "{pattern} on {module}");
            }
        }
    }

    #[test]
    fn a_rank_for_every_module_by_its_name_is_no_expression() {
        let entry = |at: usize| format!(r#""bert.encoder.layer.{at}.attention.self.query": 2"#);
        let entries: Vec<String> = (0..ENTRIES_MAX).map(entry).collect();
        let config = config(&format!(r#""target_modules": ["query"], "rank_pattern": {{{}}}"#, entries.join(", ")));
        assert_eq!(update(&config, QUERY).unwrap(), Some((2, 4.0)));
    }

    /// Refused, or resolved, within a second and a few megabytes.
    #[test]
    fn what_is_too_much_to_compile_or_to_match_is_refused() {
        let many = |count: usize, pattern: &str| {
            let entries: Vec<String> = (0..count).map(|at| format!(r#""{pattern}q{at}": 8"#)).collect();
            format!(r#""target_modules": ["query"], "rank_pattern": {{{}}}"#, entries.join(", "))
        };
        let modules: Vec<String> = (0..28)
            .flat_map(|layer| ["query", "key", "value"].map(|name| format!("bert.encoder.layer.{layer}.{name}")))
            .collect();
        for (json, named) in [
            (many(33, r"[a]"), "33 regular expressions"),
            (many(ENTRIES_MAX + 1, "a"), "1025 entries"),
            (many(1, r"\\w{205}"), "262144 bytes"),
            (many(30, r"\\w{205}"), "262144 bytes"),
            (many(1, r"((a{50}){50}){50}"), "262144 bytes"),
            (many(1, r"(?<=\\w{1,500}x)y"), "looks back"),
            (many(1, r"(?<=(\\w{1000}){1000}|a)b"), "looks back"),
            (many(1, r"a(?:b(?<!c*)d)+"), "looks back"),
            (many(1, r"(?=(?<=a|bc)d)"), "looks back"),
            (many(1, &"(a|".repeat(400)), "is not a regular expression"),
            (many(1, &"(".repeat(400)), "is not a regular expression"),
            (many(5, &"[a]".repeat(300)), "bytes are compiled"),
            (format!(r#""target_modules": "{}""#, "a".repeat(2049)), "2049 bytes"),
            (format!(r#""target_modules": ["{}"]"#, "a".repeat(2049)), "2049 bytes"),
            (r#""target_modules": "(?=(.+)+)(.+)+(.+)+(.+)+(?!.)z(?<!z)""#.to_owned(), "cannot be matched"),
        ] {
            let parsed = LoraConfig::from_json(format!(r#"{{"peft_type": "LORA", {json}}}"#).as_bytes());
            let error = match parsed.and_then(|config| resolve(&config, &modules)) {
                Err(error) => error.to_string(),
                Ok(updates) => panic!("{}: {updates:?}", quoted(&json)),
            };
            assert!(error.contains(named), "{}: {error}", quoted(&json));
            assert!(error.len() < 1000, "{}: {} bytes of error", quoted(&json), error.len());
        }
    }
}
