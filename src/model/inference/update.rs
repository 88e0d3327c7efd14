//! Adapters in a kernel's form: for each layer and product, A and B as panels.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::kernels;
use crate::model::kernels::packed::{Finish, Isa, LowRank, Number, Operand, Panels, Update, product};

use super::room::sized;

/// The products of a layer; query, key and value are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) enum Product {
    Qkv,
    AttentionOutput,
    Intermediate,
    Output,
}

/// What an adapter changes of one product, as plain numbers.
#[derive(Debug, Default)]
pub(in crate::model) struct UpdateParts {
    pub(in crate::model) deltas: BTreeMap<(usize, Product), Vec<DeltaParts>>,
    /// (layer, product) to what the adapter adds to the bias, (out).
    pub(in crate::model) biases: BTreeMap<(usize, Product), Vec<f32>>,
}

/// One low-rank update, of some of a product's columns.
#[derive(Debug)]
pub(in crate::model) struct DeltaParts {
    /// Row-major (rank, in).
    pub(in crate::model) a: Vec<f32>,
    /// Row-major (columns, rank), the scale multiplied in.
    pub(in crate::model) b: Vec<f32>,
    pub(in crate::model) rank: usize,
    /// Of the product's columns.
    pub(in crate::model) columns: Range<usize>,
    /// Of the whole product.
    pub(in crate::model) out: usize,
}

/// An adapter's updates by layer and product.
pub(super) struct Updates<I: Isa>(BTreeMap<(usize, Product), ProductUpdate<I>>);

struct ProductUpdate<I: Isa> {
    low_rank: Option<Factors<I>>,
    bias: Option<Vec<f32>>,
}

struct Factors<I: Isa> {
    /// (in, all ranks)
    a: Panels<I::Number>,
    /// (all ranks, out)
    b: Panels<I::Number>,
}

impl<I: Isa> Updates<I> {
    /// `bias` is the base's own of a product.
    pub(super) fn pack<'b>(parts: &UpdateParts, bias: impl Fn((usize, Product)) -> Option<&'b [f32]>) -> Self {
        let mut updates: BTreeMap<_, ProductUpdate<I>> = BTreeMap::new();
        for (place, deltas) in &parts.deltas {
            updates.insert(*place, ProductUpdate { low_rank: Factors::pack(deltas), bias: None });
        }
        for (place, added) in &parts.biases {
            let mut whole = added.clone();
            bias(*place).into_iter().for_each(|base| kernels::add(&mut whole, base));
            updates.entry(*place).or_insert(ProductUpdate { low_rank: None, bias: None }).bias = Some(whole);
        }
        Self(updates)
    }

    pub(super) fn bytes(&self) -> usize {
        let of = |update: &ProductUpdate<I>| {
            let factors = update.low_rank.as_ref().map_or(0, |low| low.a.bytes() + low.b.bytes());
            factors + update.bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice()))
        };
        self.0.values().map(of).sum()
    }
}

impl<I: Isa> Factors<I> {
    /// The updates side by side: their ranks follow each other, each reaches its own columns.
    fn pack(deltas: &[DeltaParts]) -> Option<Self> {
        let first = deltas.first()?;
        let ranks = deltas.iter().map(|delta| delta.rank).sum::<usize>().next_multiple_of(I::Number::PAIR);
        let width = first.a.len() / first.rank.max(1);
        let mut a = Vec::with_capacity(ranks * width);
        let mut b = vec![0.0; first.out * ranks];
        let mut at = 0;
        for delta in deltas {
            a.extend_from_slice(&delta.a);
            for (row, column) in delta.b.chunks_exact(delta.rank.max(1)).zip(delta.columns.clone()) {
                b[column * ranks + at..][..delta.rank].copy_from_slice(row);
            }
            at += delta.rank;
        }
        a.resize(ranks * width, 0.0);
        Some(Self { a: Panels::of_rows::<I>(&a, ranks, width), b: Panels::of_rows::<I>(&b, first.out, ranks) })
    }
}

/// What `segments` change of one product: their inner products are computed here, into `room`.
pub(super) fn updates<'r, I: Isa>(
    segments: &[(Range<usize>, &'r Updates<I>)],
    place: (usize, Product),
    x: Operand<'_, I::Number>,
    room: &'r mut Vec<I::Number>,
) -> Vec<Update<'r, I::Number>> {
    let of_place = |(rows, updates): &(Range<usize>, &'r Updates<I>)| Some((rows.clone(), updates.0.get(&place)?));
    let all: Vec<(Range<usize>, &ProductUpdate<I>)> = segments.iter().filter_map(of_place).collect();
    let ranks = |update: &ProductUpdate<I>| update.low_rank.as_ref().map_or(0, |low| low.a.cols());
    let mut rest = sized(room, all.iter().map(|(rows, update)| rows.len() * ranks(update)).sum());
    let mut list = Vec::with_capacity(all.len());
    for (rows, update) in all {
        let (narrow, others) = rest.split_at_mut(rows.len() * ranks(update));
        rest = others;
        let low_rank = update.low_rank.as_ref().map(|low| {
            let of = Operand { numbers: &x.numbers[rows.start * x.stride..], rows: rows.len(), stride: x.stride };
            product::<I>(of, &low.a, None, &[], Finish::Narrow(narrow));
            LowRank { narrow: Operand { numbers: narrow, rows: rows.len(), stride: low.a.cols() }, panels: &low.b }
        });
        list.push(Update { rows, bias: update.bias.as_deref(), low_rank });
    }
    list
}
