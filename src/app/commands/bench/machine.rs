//! The class of the machine that sends the load: what a reader needs to compare figures.

use serde::Serialize;

/// Instruction sets that decide an encoder's speed, as Linux names them.
const FEATURES: [&str; 8] = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16"];

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// The CPU's model, "unknown" where the system does not tell.
    pub(super) cpu: String,
    /// That this process may use.
    pub(super) cores: usize,
    pub(super) features: Vec<&'static str>,
    pub(super) os: &'static str,
    pub(super) arch: &'static str,
}

impl Machine {
    pub(super) fn this() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu: value(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            features: features(&cpuinfo),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
        }
    }
}

/// The first `key : value` line.
fn value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn features(cpuinfo: &str) -> Vec<&'static str> {
    let flags = value(cpuinfo, "flags").or_else(|| value(cpuinfo, "Features")).unwrap_or_default();
    let has = |feature: &&str| flags.split(' ').any(|flag| flag == *feature);
    FEATURES.into_iter().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_and_features_are_read_on_x86_and_arm() {
        let x86 = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16x\n";
        assert_eq!(value(x86, "model name"), Some("Some CPU"));
        assert_eq!(features(x86), ["avx2", "avx512f"]);
        assert_eq!(features("Features\t: fp asimd bf16\n"), ["asimd", "bf16"]);
        assert_eq!((value("", "model name"), features("").len()), (None, 0));
    }
}
