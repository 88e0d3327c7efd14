//! Whether an adapter's configuration names another model than the backbone it is published for. A name is a hint: local folders are
//! called anything, and one model is published by several. Pure.

use crate::adapter::LoraConfig;

/// What names of published models begin with. A folder of another name may hold anything.
const FAMILIES: [&str; 19] = [
    "albert",
    "all",
    "bert",
    "camembert",
    "deberta",
    "distilbert",
    "distilroberta",
    "e5",
    "electra",
    "gte",
    "longformer",
    "minilm",
    "mobilebert",
    "modernbert",
    "mpnet",
    "paraphrase",
    "roberta",
    "xlm",
    "xlnet",
];

/// A part of such a name tells a size: `bert-base-cased`, `all-MiniLM-L6-v2`; of `bert-finetuned` none does.
const SIZES: [&str; 9] = ["base", "large", "medium", "mini", "small", "tiny", "xlarge", "xsmall", "xxlarge"];

/// First folders of what training scripts write: `results/checkpoint-500` is no model on the hub.
const LOCAL_FOLDERS: [&str; 12] = [
    "checkpoint",
    "checkpoints",
    "data",
    "experiments",
    "model",
    "models",
    "out",
    "output",
    "outputs",
    "results",
    "runs",
    "tmp",
];

/// What the hub's cache calls the folder of a model: `models--org--model`.
const CACHED: &str = "models--";

/// A warning if `base_model_name_or_path` is certainly a model's name and none of `names`, which the backbone is called by.
pub(crate) fn names_another(config: &LoraConfig, names: &[String]) -> Option<String> {
    let named = config.base_model_name_or_path.as_deref()?.trim();
    let model = model_of(named)?;
    let own: Vec<String> = names.iter().filter_map(|name| model_of(name)).collect();
    if own.is_empty() || own.contains(&model) {
        return None;
    }
    let backbone = names.first().map_or("", String::as_str);
    Some(format!(
        "base_model_name_or_path is {:?}: the adapter was trained on another model than the backbone, which is {backbone}; its answers \
         may be noise",
        shown(named)
    ))
}

/// The model's own name, in lower case, if `name` certainly is one: `org/model` on the hub, or anywhere else, alone or at a path's
/// end, what published models are called.
fn model_of(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase().replace('\\', "/");
    let name = name.trim_end_matches('/');
    let name = name.strip_prefix("https://huggingface.co/").unwrap_or(name);
    let parts: Vec<&str> = name.split('/').collect();
    if let Some(cached) = parts.iter().find_map(|part| part.strip_prefix(CACHED)) {
        return cached.rsplit("--").next().map(str::to_owned);
    }
    let is_path = name.starts_with(['.', '/', '~', '$']) || name.contains(':');
    match parts[..] {
        [organisation, model]
            if !is_path && !LOCAL_FOLDERS.contains(&organisation) && !model.starts_with("checkpoint-") =>
        {
            Some(model.to_owned())
        }
        [.., model] => is_published(model).then(|| model.to_owned()),
        [] => None,
    }
}

fn is_published(model: &str) -> bool {
    let mut parts = model.split(['-', '_']);
    let is_of_family = parts.next().is_some_and(|first| FAMILIES.contains(&first));
    let is_layers =
        |part: &str| part.strip_prefix('l').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_of_family && parts.any(|part| SIZES.contains(&part) || is_layers(part))
}

fn shown(name: &str) -> String {
    /// The longest name on the hub has 96 characters in each of its two parts.
    const CHARS_MAX: usize = 200;
    name.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certainly_another_model_is_warned_of() {
        const MINILM: &[&str] = &["sentence-transformers/all-MiniLM-L6-v2", "nreimers/MiniLM-L6-H384-uncased"];
        for (names, base, warns) in [
            (MINILM, Some("bert-base-cased"), true),
            (MINILM, Some("google-bert/bert-base-cased"), true),
            (MINILM, Some("FacebookAI/roberta-large"), true),
            (MINILM, Some("distilbert-base-uncased"), true),
            (MINILM, Some("https://huggingface.co/microsoft/deberta-v3-base"), true),
            (MINILM, Some("sentence-transformers/all-MiniLM-L12-v2"), true),
            (MINILM, Some("sentence-transformers/all-MiniLM-L6-v2"), false),
            (MINILM, Some("Xenova/all-minilm-l6-v2"), false),
            (MINILM, Some("all-MiniLM-L6-v2"), false),
            (MINILM, Some("all-MiniLM-L6-v2/"), false),
            (MINILM, Some("nreimers/MiniLM-L6-H384-uncased"), false),
            (MINILM, Some("/home/me/models/bert-base-uncased"), true),
            (MINILM, Some("./bert-base-cased"), true),
            (MINILM, Some("models/xlm-roberta-large/"), true),
            (MINILM, Some("C:\\models\\bert-base-cased"), true),
            (MINILM, Some("/home/anna/.cache/huggingface/hub/models--bert-base-cased/snapshots/0a1"), true),
            (MINILM, Some("/hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/0a1"), false),
            (MINILM, Some("/srv/all-MiniLM-L6-v2"), false),
            (MINILM, Some("~/MiniLM-L6-H384-uncased"), false),
            (MINILM, Some("../models/bert"), false),
            (MINILM, Some("/srv/bert-finetuned"), false),
            (MINILM, Some("/srv/my-bert-base"), false),
            (MINILM, Some("C:\\models\\mine"), false),
            (MINILM, Some("results/checkpoint-500"), false),
            (MINILM, Some("my-run/checkpoint-500"), false),
            (MINILM, Some("output"), false),
            (MINILM, Some("x"), false),
            (MINILM, Some(""), false),
            (MINILM, None, false),
            (&["backbones/mine"], Some("bert-base-cased"), true),
            (&["./mine"], Some("bert-base-cased"), false),
            (&["/srv/mine"], Some("bert-base-cased"), false),
            (&["/srv/bert-base-cased"], Some("google-bert/bert-base-cased"), false),
            (&["/srv/bert-base-cased"], Some("bert-base-uncased"), true),
            (&["/srv/mine", "google-bert/bert-base-cased"], Some("bert-base-cased"), false),
            (&["/srv/mine", "google-bert/bert-base-cased"], Some("bert-base-uncased"), true),
            (&[], Some("bert-base-cased"), false),
        ] {
            let config = LoraConfig { base_model_name_or_path: base.map(str::to_owned), ..LoraConfig::default() };
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let warning = names_another(&config, &names);
            assert_eq!(warning.is_some(), warns, "{base:?} on {names:?}: {warning:?}");
        }
    }
}
