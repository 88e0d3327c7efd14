//! An adapter's trained numbers as one flat vector, and as the variables that a backward pass knows.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::adapter::AdapterBundle;
use crate::domain::{Error, Result};
use crate::model::Encoder;
use crate::training::optimizer::Group;
use crate::training::settle::Recipe;

/// The variables of one adapter, in the adapter's own order.
pub(super) struct Variables(Vec<Variable>);

struct Variable {
    name: String,
    var: Var,
    /// Its place in the flat vector.
    range: Range<usize>,
}

impl Variables {
    /// The same adapter, but made of variables, and those variables.
    pub(super) fn of(adapter: &AdapterBundle, encoder: &Encoder) -> Result<(AdapterBundle, Self)> {
        let mut variables = Vec::new();
        let mut end = 0;
        for (name, tensor) in adapter.trainable() {
            let range = end..end + tensor.elem_count();
            end = range.end;
            variables.push(Variable { name, var: Var::from_tensor(&tensor)?, range });
        }
        let tensors: HashMap<String, Tensor> =
            variables.iter().map(|v| (v.name.clone(), v.var.as_tensor().clone())).collect();
        Ok((adapter.with_tensors(encoder, &tensors)?, Self(variables)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |variable| variable.range.end)
    }

    /// The place of a variable in the flat vector, by its name or the end of it.
    pub(super) fn range_of(&self, name: &str) -> Option<Range<usize>> {
        self.0.iter().find(|variable| variable.name.ends_with(name)).map(|variable| variable.range.clone())
    }

    /// All numbers, end to end.
    pub(super) fn flat(&self) -> Result<Vec<f32>> {
        let mut flat = Vec::with_capacity(self.len());
        for Variable { var, .. } in &self.0 {
            flat.extend(var.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(flat)
    }

    /// Puts `flat` into the variables; every adapter made of them changes with it.
    pub(super) fn set(&self, flat: &[f32]) -> Result<()> {
        for Variable { var, range, .. } in &self.0 {
            var.set(&Tensor::from_slice(&flat[range.clone()], var.shape(), var.device())?)?;
        }
        Ok(())
    }

    /// The tensors of `flat`, apart from the variables.
    pub(super) fn tensors(&self, flat: &[f32]) -> Result<HashMap<String, Tensor>> {
        let tensor = |Variable { name, var, range }: &Variable| {
            Ok((name.clone(), Tensor::from_slice(&flat[range.clone()], var.shape(), var.device())?))
        };
        self.0.iter().map(tensor).collect()
    }

    /// The gradients, end to end. A variable that none reached is named: the loss can fall without it.
    pub(super) fn gradient(&self, gradients: &GradStore) -> Result<Vec<f32>> {
        self.gradient_where(gradients, |_| true)
    }

    /// The same of the variables that `is_wanted` by name; the others' places are zero.
    pub(super) fn gradient_where(&self, gradients: &GradStore, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.len()];
        for Variable { name, var, range } in self.0.iter().filter(|variable| is_wanted(&variable.name)) {
            let gradient = gradients.get(var.as_tensor());
            let gradient = gradient.ok_or_else(|| Error::internal(format!("no gradient reaches {name}")))?;
            flat[range.clone()].copy_from_slice(&gradient.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(flat)
    }

    /// The first variable whose part of `flat` is not finite.
    pub(super) fn not_finite(&self, flat: &[f32]) -> Option<&str> {
        let is_bad = |variable: &&Variable| !flat[variable.range.clone()].iter().all(|number| number.is_finite());
        self.0.iter().find(is_bad).map(|variable| variable.name.as_str())
    }

    /// One group a variable, with the rate and the weight decay that `of` gives its name.
    pub(super) fn groups_by(&self, of: impl Fn(&str) -> (f64, f64)) -> Vec<Group> {
        let group = |Variable { name, range, .. }: &Variable| {
            let (rate, weight_decay) = of(name);
            Group { range: range.clone(), rate, weight_decay }
        };
        self.0.iter().map(group).collect()
    }

    /// Biases do not decay; a head learns at its own rate.
    pub(super) fn groups(&self, recipe: &Recipe) -> Vec<Group> {
        self.groups_by(|name| {
            let rate = if name.contains("lora_") { 1.0 } else { recipe.head_rate };
            (rate, if name.ends_with("bias") { 0.0 } else { recipe.weight_decay })
        })
    }
}
