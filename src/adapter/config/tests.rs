//! What is honoured, what is refused by name, and what is let through.

use super::*;

fn parse(fields: &str) -> Result<LoraConfig> {
    LoraConfig::from_json(format!(r#"{{"peft_type": "LORA", "target_modules": ["query"]{fields}}}"#).as_bytes())
}

#[test]
fn what_changes_the_numbers_and_is_not_supported_is_refused_by_name() {
    for (fields, expected) in [
        (r#", "use_dora": true"#, "use_dora"),
        (r#", "use_qalora": true"#, "use_qalora"),
        (r#", "use_bdlora": {"nblocks": 2}"#, "use_bdlora"),
        (r#", "layer_replication": [[0, 4]]"#, "layer_replication"),
        (r#", "trainable_token_indices": [5]"#, "trainable_token_indices"),
        (r#", "target_parameters": ["experts"]"#, "target_parameters"),
        (r#", "alora_invocation_tokens": [1]"#, "alora_invocation_tokens"),
        (r#", "arrow_config": {"top_k": 2}"#, "arrow_config"),
        (r#", "megatron_config": {"tp": 2}"#, "megatron_config"),
        (r#", "kasa_config": {"a": 1}"#, "kasa_config"),
        (r#", "a_key_of_tomorrow": 3"#, "a_key_of_tomorrow = 3"),
        (r#", "init_lora_weights": "pissa_niter_4""#, "pissa_niter_4"),
        (r#", "init_lora_weights": "corda""#, "corda"),
        (r#", "peft_type": "IA3""#, "peft_type"),
        (r#", "task_type": "CAUSAL_LM""#, "CAUSAL_LM"),
        (r#", "bias": "some""#, "bias"),
        (r#", "bias": "all", "lora_bias": true"#, "lora_bias and bias"),
        (r#", "r": 0"#, "rank 0"),
        (r#", "r": 100000"#, "rank 100000"),
        (r#", "r": "8""#, "r: invalid type"),
        (r#", "rank_pattern": {"query": 1000}"#, "rank 1000 of \"query\""),
        (r#", "rank_pattern": {"(": 4}"#, "not a regular expression"),
        (r#", "lora_dropout": 1.5"#, "lora_dropout"),
        (r#", "target_modules": null"#, "target_modules"),
        (r#", "target_modules": 3"#, "target_modules"),
        (r#", "target_modules": ".*", "layers_to_transform": [1]"#, "layers_to_transform"),
    ] {
        let error = parse(fields).expect_err(fields).to_string();
        assert!(error.contains(expected), "{fields}: {error}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let error = parse(r#", "use_dora": true, "r": 0, "bias": "x""#).unwrap_err();
    assert_eq!(error.problems().len(), 3, "{error}");
}

#[test]
fn what_is_switched_off_or_history_is_let_through() {
    for fields in [
        r#", "use_dora": false, "kasa_config": null, "target_parameters": []"#,
        r#", "a_key_of_tomorrow": null"#,
        r#", "init_lora_weights": "gaussian", "eva_config": {"rho": 2.0}, "peft_version": "9""#,
        r#", "qalora_group_size": 16, "megatron_core": "megatron.core", "inference_mode": false"#,
    ] {
        assert_eq!(parse(fields).unwrap(), parse("").unwrap(), "{fields}");
    }
}

#[test]
fn a_configuration_is_read_as_it_was_written() {
    for fields in [
        "",
        r#", "r": 4, "lora_alpha": 12.5, "use_rslora": true, "fan_in_fan_out": true, "lora_dropout": 0.1"#,
        r#", "rank_pattern": {"query": 2}, "alpha_pattern": {"query": 3}, "lora_bias": true"#,
        r#", "layers_to_transform": [4], "layers_pattern": ["layer"], "modules_to_save": ["classifier", "pooler"]"#,
        r#", "target_modules": "all-linear", "exclude_modules": ["key"], "task_type": "SEQ_CLS""#,
        r#", "target_modules": ".*query", "exclude_modules": ".*4.*", "bias": "all""#,
    ] {
        let config = parse(fields).unwrap();
        assert_eq!(LoraConfig::from_json(&config.to_json()).unwrap(), config, "{fields}");
    }
}
