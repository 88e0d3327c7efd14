//! `adapter_model.safetensors`: strictly read, reproducibly written, names as PEFT gives them. Leaves their meaning to `bundle`.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Storage, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::adapter::files::{CONCEPTS_NAME, WEIGHTS_NAME};
use crate::domain::{Error, Problems, Result};

/// The header's JSON in bytes: a thousand tensors take a tenth of it.
const HEADER_BYTES_MAX: u64 = 4 << 20;

/// What PEFT puts before every name of the task model.
const PREFIX: &str = "base_model.model.";

/// The adapter name in names of files that other tools wrote; PEFT itself leaves it out.
const ADAPTER: &str = "default";

/// Tensors by their name in the task model: `bert.encoder.layer.0.attention.self.query.lora_A.weight`, `classifier.bias`.
pub(crate) type NamedTensors = BTreeMap<String, Tensor>;

/// All tensors as f32. What is wrong with single ones is noted in `problems` and they are left out.
pub(crate) fn parse(bytes: &[u8], device: &Device, problems: &mut Problems) -> Result<NamedTensors> {
    read_all(open(bytes)?, device, problems, canonical_name)
}

/// The same of `concept_head.safetensors`, whose names are plain.
pub(crate) fn parse_concepts(bytes: &[u8], device: &Device, problems: &mut Problems) -> Result<NamedTensors> {
    read_all(open_file(bytes, CONCEPTS_NAME)?, device, problems, |name| Some(name.to_owned()))
}

fn read_all(
    file: SafeTensors<'_>,
    device: &Device,
    problems: &mut Problems,
    canonical_name: impl Fn(&str) -> Option<String>,
) -> Result<NamedTensors> {
    let mut tensors = NamedTensors::new();
    let mut views: Vec<_> = file.iter().collect();
    // The same file gives the same problems, in the same order.
    views.sort_unstable_by_key(|(name, _)| *name);
    for (name, view) in views {
        if is_original(name) {
            continue;
        }
        let Some(canonical) = canonical_name(name) else {
            problems.push(format_args!("{name}: does not begin with {PREFIX:?}"));
            continue;
        };
        match read_tensor(&view, device) {
            Ok(tensor) if tensors.get(&canonical).is_some_and(|other| !is_equal(other, &tensor)) => {
                problems.push(format_args!("{name}: {canonical} is there twice, shape {:?}", tensor.dims()));
            }
            Ok(tensor) => drop(tensors.insert(canonical, tensor)),
            Err(error) => problems.push(format_args!("{name}: {}", error.message())),
        }
    }
    Ok(tensors)
}

/// The rows of the first of `names` that is there: how many labels a head has, before anything else is read.
pub(crate) fn rows_of(bytes: &[u8], names: &[&str]) -> Result<Option<usize>> {
    let file = open(bytes)?;
    let rows = |wanted: &&str| {
        file.iter()
            .find(|(name, _)| canonical_name(name).as_deref() == Some(*wanted))
            .map(|(_, view)| view.shape().to_vec())
    };
    Ok(names.iter().find_map(rows).and_then(|shape| shape.first().copied()))
}

/// The same tensors give the same bytes: f32, sorted by name.
pub(crate) fn write(tensors: &NamedTensors) -> Result<Vec<u8>> {
    serialize(tensors, file_name)
}

/// The same for `concept_head.safetensors`, whose names are plain.
pub(crate) fn write_concepts(tensors: &NamedTensors) -> Result<Vec<u8>> {
    serialize(tensors, str::to_owned)
}

fn serialize(tensors: &NamedTensors, file_name: impl Fn(&str) -> String) -> Result<Vec<u8>> {
    let data = tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((file_name(name), tensor.dims().to_vec(), bytes))
        })
        .collect::<Result<Vec<_>>>()?;
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    views
        .and_then(|views| safetensors::serialize(views, Some(metadata)))
        .map_err(|e| Error::internal(format!("an adapter's tensors cannot be written: {e}")).with_source(e))
}

fn open(bytes: &[u8]) -> Result<SafeTensors<'_>> {
    open_file(bytes, WEIGHTS_NAME)
}

fn open_file<'a>(bytes: &'a [u8], file: &str) -> Result<SafeTensors<'a>> {
    let refused = |why: String| Error::unprocessable(format!("{file}: {why}"));
    if let Some((length, _)) = bytes.split_first_chunk()
        && u64::from_le_bytes(*length) > HEADER_BYTES_MAX
    {
        let got = u64::from_le_bytes(*length);
        return Err(refused(format!("its header claims {got} bytes; at most {HEADER_BYTES_MAX} are read")));
    }
    SafeTensors::deserialize(bytes).map_err(|e| refused(format!("not a safetensors file: {e}")))
}

fn read_tensor(view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(Error::unprocessable(format!("has type {other:?}; F32, F16 or BF16 is wanted"))),
    };
    if view.data().is_empty() {
        return Err(Error::unprocessable(format!("is empty, shape {:?}", view.shape())));
    }
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?;
    let wrong = not_finite(&tensor)?;
    if wrong > 0 {
        return Err(Error::unprocessable(format!("holds {wrong} values that are not finite (NaN or infinite)")));
    }
    Ok(tensor.to_device(device)?)
}

/// What a module was before a copy of it was trained (`modules_to_save`); PEFT runs the copy.
fn is_original(name: &str) -> bool {
    name.split('.').any(|part| part == "original_module")
}

fn is_equal(a: &Tensor, b: &Tensor) -> bool {
    let numbers = |tensor: &Tensor| tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).ok();
    a.dims() == b.dims() && numbers(a) == numbers(b)
}

fn not_finite(tensor: &Tensor) -> Result<usize> {
    let (storage, _whole) = tensor.storage_and_layout();
    let Storage::Cpu(numbers) = &*storage else { return Err(Error::internal("a tensor just read is not in memory")) };
    Ok(numbers.as_slice::<f32>()?.iter().filter(|value| !value.is_finite()).count())
}

/// The name in the file.
pub(crate) fn file_name(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// `base_model.model.X.lora_A.default.weight` → `X.lora_A.weight`, `….classifier.modules_to_save.default.weight` → `classifier.weight`,
/// `….query.base_layer.bias` → `query.bias`. None for a name that is not PEFT's.
fn canonical_name(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split('.').collect();
    let named = |at: usize, after: &[&str]| at > 0 && parts[at] == ADAPTER && after.contains(&parts[at - 1]);
    let kept = parts.iter().enumerate().filter(|&(at, &part)| {
        let wrapper = matches!(part, "modules_to_save" | "base_layer");
        !wrapper && !named(at, &["lora_A", "lora_B", "modules_to_save"])
    });
    Some(kept.map(|(_, &part)| part).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_writer_become_those_of_the_task_model() {
        for (name, expected) in [
            ("base_model.model.a.query.lora_A.weight", Some("a.query.lora_A.weight")),
            ("base_model.model.a.query.lora_A.default.weight", Some("a.query.lora_A.weight")),
            ("base_model.model.a.query.lora_B.default.bias", Some("a.query.lora_B.bias")),
            ("base_model.model.a.query.base_layer.bias", Some("a.query.bias")),
            ("base_model.model.classifier.weight", Some("classifier.weight")),
            ("base_model.model.classifier.modules_to_save.weight", Some("classifier.weight")),
            ("base_model.model.classifier.modules_to_save.default.weight", Some("classifier.weight")),
            ("base_model.model.bert.pooler.dense.weight", Some("bert.pooler.dense.weight")),
            ("classifier.weight", None),
        ] {
            assert_eq!(canonical_name(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_written_the_same() {
        let tensor = Tensor::from_vec(vec![1f32, -2., 3.5, 0.], (2, 2), &Device::Cpu).unwrap();
        let turned = tensor.t().unwrap();
        let bytes = write(&[("b.weight".to_owned(), turned), ("a.weight".to_owned(), tensor)].into()).unwrap();
        let mut problems = Problems::new();
        let read = parse(&bytes, &Device::Cpu, &mut problems).unwrap();
        assert_eq!(read["b.weight"].to_vec2::<f32>().unwrap(), [[1., 3.5], [-2., 0.]]);
        assert_eq!(write(&read).unwrap(), bytes);
        assert_eq!(problems, Problems::new());
    }

    #[test]
    fn half_precision_becomes_f32_and_other_types_are_refused_by_name() {
        let halves = [0x00, 0x3c, 0x00, 0xc0]; // 1, -2 in f16
        let views = [
            ("base_model.model.half.weight", TensorView::new(Dtype::F16, vec![2], &halves).unwrap()),
            ("base_model.model.whole.weight", TensorView::new(Dtype::I32, vec![1], &halves).unwrap()),
        ];
        let mut problems = Problems::new();
        let read = parse(&safetensors::serialize(views, None).unwrap(), &Device::Cpu, &mut problems).unwrap();
        assert_eq!(read["half.weight"].to_vec1::<f32>().unwrap(), [1., -2.]);
        assert_eq!(problems.lines(9), ["base_model.model.whole.weight: has type I32; F32, F16 or BF16 is wanted"]);
    }

    #[test]
    fn a_file_that_is_not_safetensors_is_refused() {
        let mut bomb = u64::MAX.to_le_bytes().to_vec();
        bomb.extend_from_slice(b"{}");
        for bytes in [&b""[..], b"PK\x03\x04 something", &bomb, b"\x02\0\0\0\0\0\0\0{}trailing"] {
            let error = parse(bytes, &Device::Cpu, &mut Problems::new()).unwrap_err();
            assert!(error.message().starts_with("adapter_model.safetensors"), "{error}");
        }
    }
}
