//! Which modules an adapter's configuration means, and with what rank and alpha: PEFT's rules for names, on names such as
//! `bert.encoder.layer.4.attention.self.query`. Pure.

use fancy_regex::Regex;

use crate::adapter::{LoraConfig, TargetModules};
use crate::domain::{Error, Result};

/// Characters of one regular expression; real ones have a few dozen.
const PATTERN_CHARS_MAX: usize = 2048;

/// Steps one match may take; a pattern that needs more is an attack, not a name.
const BACKTRACK_MAX: usize = 100_000;

/// A configuration's patterns, compiled.
pub(crate) struct Targets<'a> {
    config: &'a LoraConfig,
    chosen: Selector<'a>,
    excluded: Option<Selector<'a>>,
    /// Each finds the layer's number in a name.
    layer_number: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

enum Selector<'a> {
    Suffixes(&'a [String]),
    Regex(Box<Regex>),
    All,
}

impl<'a> Targets<'a> {
    /// Fails on a pattern that is no regular expression, or not one we can run.
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self> {
        let any_list = ["[^.]*".to_owned()];
        let lists = if config.layers_pattern.is_empty() { &any_list[..] } else { &config.layers_pattern };
        let suffix = |pattern: &String| compile(&format!(r"^(.*\.)?({pattern})$"));
        Ok(Self {
            config,
            chosen: Selector::new(&config.target_modules)?,
            excluded: config.exclude_modules.as_ref().map(Selector::new).transpose()?,
            layer_number: lists.iter().map(|l| compile(&format!(r"^.*\.{l}\.(?<n>\d+)\."))).collect::<Result<_>>()?,
            ranks: config.rank_pattern.iter().map(|(p, &r)| Ok((suffix(p)?, r))).collect::<Result<_>>()?,
            alphas: config.alpha_pattern.iter().map(|(p, &a)| Ok((suffix(p)?, a))).collect::<Result<_>>()?,
        })
    }

    /// Whether `module` gets an update.
    pub(crate) fn contains(&self, module: &str) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.matches(module)?
        {
            return Ok(false);
        }
        Ok(self.chosen.matches(module)? && (self.chosen.names_whole(module) || self.in_chosen_layer(module)?))
    }

    /// (rank, scale) of `module`'s update.
    pub(crate) fn rank_and_scale(&self, module: &str) -> Result<(usize, f64)> {
        let rank = first_match(&self.ranks, module)?.unwrap_or(self.config.rank);
        let alpha = first_match(&self.alphas, module)?.unwrap_or(self.config.alpha);
        Ok((rank, self.config.scale(alpha, rank)))
    }

    fn in_chosen_layer(&self, module: &str) -> Result<bool> {
        let Some(layers) = &self.config.layers_to_transform else { return Ok(true) };
        for pattern in &self.layer_number {
            if let Some(found) = pattern.captures(module).map_err(too_hard)? {
                let number = found.name("n").and_then(|n| n.as_str().parse().ok());
                return Ok(number.is_some_and(|n| layers.contains(&n)));
            }
        }
        Ok(false)
    }
}

impl<'a> Selector<'a> {
    fn new(modules: &'a TargetModules) -> Result<Self> {
        Ok(match modules {
            TargetModules::Suffixes(names) => Self::Suffixes(names),
            TargetModules::Regex(pattern) => Self::Regex(Box::new(compile(&format!("^(?:{pattern})$"))?)),
            TargetModules::AllLinear => Self::All,
        })
    }

    fn matches(&self, module: &str) -> Result<bool> {
        let ends = |name: &String| {
            module.strip_suffix(name.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
        };
        match self {
            Self::Suffixes(names) => Ok(names.iter().any(ends)),
            Self::Regex(pattern) => pattern.is_match(module).map_err(too_hard),
            Self::All => Ok(true),
        }
    }

    /// A module listed by its whole name is meant whatever its layer.
    fn names_whole(&self, module: &str) -> bool {
        matches!(self, Self::Suffixes(names) if names.iter().any(|name| name == module))
    }
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.is_match(module).map_err(too_hard)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn compile(pattern: &str) -> Result<Regex> {
    if pattern.chars().count() > PATTERN_CHARS_MAX {
        return Err(Error::unprocessable(format!("a module pattern is longer than {PATTERN_CHARS_MAX} characters")));
    }
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_MAX)
        .build()
        .map_err(|e| Error::unprocessable(format!("{pattern:?} is not a regular expression: {e}")))
}

fn too_hard(error: fancy_regex::Error) -> Error {
    Error::unprocessable(format!("a module pattern cannot be matched: {error}"))
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

    fn contains(json: &str, module: &str) -> bool {
        Targets::new(&config(json)).unwrap().contains(module).unwrap()
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
            assert_eq!(Targets::new(&config).unwrap().rank_and_scale(QUERY).unwrap(), expected, "{patterns}");
        }
    }

    #[test]
    fn a_pattern_that_never_ends_is_stopped() {
        let config = config(r#""target_modules": "(?:(?=(.*))\\1?)*(a+)+(?!.)\\2x""#);
        let name = format!("bert.{}", "a".repeat(64));
        let result = Targets::new(&config).unwrap().contains(&name);
        assert!(result.is_err() || !result.unwrap());
    }
}
