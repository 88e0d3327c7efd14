//! Types of the OpenAPI document alone: strings of a pattern, closed lists, numbers within bounds. The document allows what the server
//! takes, so that generated clients refuse a mistake before it is sent. The rules themselves are `domain`'s and `serving`'s.

use std::borrow::Cow;

use serde_json::Value;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::{CandidateLabels, HypothesisTemplate};

/// Schemas by name, each a type that fields of the document can have.
macro_rules! schemas {
    ($($name:ident = $schema:expr;)*) => {$(
        pub(super) struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

/// A name, and the names that may follow a colon: files, folders and metric labels.
const NAME: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}";

schemas! {
    AdapterName = text("An adapter, alias, dataset or split.", &format!("^{NAME}$"), "people-places");
    AdapterReference = text(
        "`name` (its active version), `name@version` or an alias.",
        &format!("^{NAME}(@[1-9][0-9]{{0,8}})?$"),
        "people-places@3",
    );
    CandidateLabel = plain(ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("\\S"))
        .max_length(Some(CandidateLabels::CHARS_MAX))
        .examples(["person"]));
    Template = plain(ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("\\{\\}"))
        .max_length(Some(HypothesisTemplate::CHARS_MAX))
        .examples(["This text is about {}."]));
    SplitReference = text("`dataset:split`.", "^[^:]+:[\\s\\S]+$", "banking77:train");
    MixReference = text("A dataset, or `dataset:split`.", "^[^:]+(:[\\s\\S]+)?$", "crossner-ai");

    FamilyWord = words(&["ner", "classify"]);
    DatasetFamilyWord = words(&["ner", "classify", "pairs"]);
    FineTuneKind = words(&["fine_tune"]);
    PreFinetuneKind = words(&["pre_finetune"]);
    PublishWord = words(&["activate", "stage", "never"]);
    StrategyWord = words(&["task_primary", "joint", "ner_only", "classify_only"]);
    DecayWord = words(&["linear", "cosine"]);
    PrecisionWord = words(&["f32", "bf16"]);
    GateSplitWord = words(&["auto", "test", "validation"]);
    MetricWord = words(&["f1", "macro_f1", "weighted_f1", "accuracy", "precision", "recall"]);

    AutoEpochs = or_auto(whole(1, 1000));
    AutoBatchSize = or_auto(whole(1, 1024));
    AutoPatience = or_auto(whole(0, 1000));
    AutoRate = or_auto(rate());
    AutoFlag = or_auto(ObjectBuilder::new().schema_type(Type::Boolean));
    Rate = plain(rate());
    AboveZero = plain(ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0)));
    DropoutShare = plain(ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0)).exclusive_maximum(Some(1)));
    LayersChoice = one_of([
        plain(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^(auto|all|last:[1-9][0-9]{0,3})$"))),
        ArrayBuilder::new().items(whole(0, 9999)).min_items(Some(1)).unique_items(true).into(),
    ]);
    ModulesChoice = one_of([
        words(&["auto"]),
        ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String)).min_items(Some(1)).into(),
    ]);
}

fn plain(schema: ObjectBuilder) -> RefOr<Schema> {
    schema.into()
}

fn text(description: &str, pattern: &str, example: &str) -> RefOr<Schema> {
    let string = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    plain(string.description(Some(description)).examples([example]))
}

fn words(words: &[&str]) -> RefOr<Schema> {
    plain(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.iter().copied().map(Value::from))))
}

fn whole(minimum: u32, maximum: u32) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(minimum)).maximum(Some(maximum))
}

/// A learning rate.
fn rate() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0)).maximum(Some(1))
}

/// `"auto"`: settled from the data.
fn or_auto(number: ObjectBuilder) -> RefOr<Schema> {
    one_of([plain(number), words(&["auto"])])
}

fn one_of<const N: usize>(choices: [RefOr<Schema>; N]) -> RefOr<Schema> {
    let schema = choices.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item);
    schema.into()
}
