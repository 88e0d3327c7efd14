//! Every layer equals its plain twin, in value and in each gradient.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::attention::attention;
use super::linear::Linear;
use super::{Norm, Pass, Place, Rotary};
use super::{activate, activate_gated, dense, dropout, first_rows, mean_rows, plain};
use crate::model::kernels::packed::Kernel;
use crate::model::kernels::testing::{assert_close, numbers};
use crate::model::{Activation, Delta, Linear as Role, LoraWeights, Mode, SegmentAdapters, Site};

const TRAIN: Mode = Mode::Train { dropout: 0.3, seed: 11 };

fn tensor(rows: usize, cols: usize, seed: u64) -> Tensor {
    Tensor::from_vec(numbers(rows * cols, seed), (rows, cols), &Device::Cpu).unwrap()
}

fn vector(len: usize, seed: u64) -> Tensor {
    tensor(1, len, seed).squeeze(0).unwrap()
}

/// Both functions of the same variables, in value and in the gradient of a random sum of the result.
fn check(
    what: &str,
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    twin: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let numbers_of = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let run = |function: &dyn Fn(&[Tensor]) -> Result<Tensor>| {
        let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let y = function(&tensors).unwrap();
        let direction = tensor(y.dim(0).unwrap(), y.dim(1).unwrap(), 99);
        let grads = (&y * direction).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = |(i, var): (usize, &Var)| {
            numbers_of(grads.get(var).unwrap_or_else(|| panic!("{what}: no gradient for input {i}")))
        };
        (numbers_of(&y), vars.iter().enumerate().map(gradient).collect::<Vec<_>>())
    };
    let ((got, got_gradients), (wanted, wanted_gradients)) = (run(&fused), run(&twin));
    assert_close(&got, &wanted, 1e-5);
    for (got, wanted) in got_gradients.iter().zip(&wanted_gradients) {
        assert!(wanted.iter().any(|x| *x != 0.0), "{what}: a gradient of zeros proves nothing");
        assert_close(got, wanted, 5e-5);
    }
    // what is computed without a gradient is the same
    assert_close(&numbers_of(&fused(inputs).unwrap()), &wanted, 1e-5);
}

const SITE: Site = Site { layer: 3, linear: Role::Query };

fn lora(delta: Option<(&Tensor, &Tensor)>, bias: Option<&Tensor>) -> LoraWeights {
    let delta = delta.map(|(a, b)| (SITE, Delta { a: a.clone(), b: b.clone(), scale: 1.5 }));
    LoraWeights::new(delta.into_iter().collect(), bias.map(|bias| (SITE, bias.clone())).into_iter().collect())
}

/// The adapters of rows 2..5 and 5..9 of twelve; the second brings a bias.
fn two_adapters(linear: &Linear, inputs: &[Tensor], mode: Mode, is_plain: bool) -> Result<Tensor> {
    let first = lora(Some((&inputs[1], &inputs[2])), None);
    let second = lora(Some((&inputs[3], &inputs[4])), Some(&inputs[5]));
    let adapters = SegmentAdapters(vec![(2..5, &first), (5..9, &second)]);
    let pass = Pass { bounds: Arc::from([0, 12]), adapters: &adapters, mode, sink: None };
    if is_plain { linear.plain(&inputs[0], &pass) } else { linear.forward(&inputs[0], &pass) }
}

#[test]
fn a_linear_with_adapters_in_segments() {
    for bias in [Some(vector(7, 20)), None] {
        let linear = Linear::new(SITE, &tensor(7, 10, 21), bias, Kernel::best(false)).unwrap();
        let inputs =
            [tensor(12, 10, 1), tensor(2, 10, 2), tensor(7, 2, 3), tensor(3, 10, 4), tensor(7, 3, 5), vector(7, 6)];
        let run = |is_plain| {
            let linear = &linear;
            move |inputs: &[Tensor]| two_adapters(linear, inputs, Mode::Eval, is_plain)
        };
        check("two adapters", &inputs, run(false), run(true));
    }
}

#[test]
fn a_linear_with_one_adapter_and_dropout() {
    let linear = Linear::new(SITE, &tensor(7, 10, 21), Some(vector(7, 20)), Kernel::best(false)).unwrap();
    let inputs = [tensor(12, 10, 1), tensor(2, 10, 2), tensor(7, 2, 3)];
    for mode in [Mode::Eval, TRAIN] {
        let run = |is_plain: bool, inputs: &[Tensor]| {
            let adapter = lora(Some((&inputs[1], &inputs[2])), None);
            let adapters = SegmentAdapters(vec![(0..12, &adapter)]);
            let pass = Pass { bounds: Arc::from([0, 5, 12]), adapters: &adapters, mode, sink: None };
            if is_plain { linear.plain(&inputs[0], &pass) } else { linear.forward(&inputs[0], &pass) }
        };
        // without a gradient nothing is dropped, so only the tracked pass can be compared in training
        let tracked = |inputs: &[Tensor]| match mode {
            Mode::Train { .. } if !inputs[0].track_op() => run(true, inputs),
            _ => run(false, inputs),
        };
        check(&format!("{mode:?}"), &inputs, tracked, |inputs| run(true, inputs));
    }
}

#[test]
fn an_adapters_halves_get_gradients_where_the_hidden_states_need_none() {
    let linear = Linear::new(SITE, &tensor(7, 10, 21), None, Kernel::best(false)).unwrap();
    let x = tensor(12, 10, 1);
    let inputs = [tensor(2, 10, 2), tensor(7, 2, 3)];
    let run = |is_plain: bool, inputs: &[Tensor]| {
        let adapter = lora(Some((&inputs[0], &inputs[1])), None);
        let adapters = SegmentAdapters(vec![(0..12, &adapter)]);
        let pass = Pass { bounds: Arc::from([0, 12]), adapters: &adapters, mode: Mode::Eval, sink: None };
        if is_plain { linear.plain(&x, &pass) } else { linear.forward(&x, &pass) }
    };
    check("x untracked", &inputs, |inputs| run(false, inputs), |inputs| run(true, inputs));
}

#[test]
fn an_update_that_does_not_fit_is_an_error() {
    let linear = Linear::new(SITE, &tensor(7, 10, 21), None, Kernel::best(false)).unwrap();
    for (a, b) in [((2, 9), (7, 2)), ((2, 10), (7, 3)), ((2, 10), (6, 2))] {
        let adapter = lora(Some((&tensor(a.0, a.1, 1), &tensor(b.0, b.1, 2))), None);
        let adapters = SegmentAdapters(vec![(0..12, &adapter)]);
        let pass = Pass { bounds: Arc::from([0, 12]), adapters: &adapters, mode: Mode::Eval, sink: None };
        let error = linear.forward(&tensor(12, 10, 1), &pass).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}

#[test]
fn a_dense_layer() {
    let inputs = [tensor(5, 10, 1), tensor(3, 10, 2), vector(3, 3)];
    let run = |x: &[Tensor]| dense(&x[0], &x[1], &x[2]);
    check("dense", &inputs, run, |x| plain::linear(&x[0], &x[1], Some(&x[2])));
}

#[test]
fn dropout_by_its_mask() {
    let place = Place::Head(1);
    let mask = place.dropout(TRAIN).unwrap().mask(5 * 33);
    let mask = Tensor::from_vec(mask, (5, 33), &Device::Cpu).unwrap();
    check("dropout", &[tensor(5, 33, 1)], |x| dropout(&x[0], place, TRAIN), |x| &x[0] * &mask);
    let other = Place::Site(SITE).dropout(TRAIN).unwrap().mask(5 * 33);
    assert_ne!(mask.flatten_all().unwrap().to_vec1::<f32>().unwrap(), other, "places have masks of their own");
}

#[test]
fn activations() {
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let what = format!("{activation:?}");
        // a copy, because without a gradient the numbers change where they are
        let run = |x: &[Tensor]| activate(&x[0], activation);
        check(&what, &[tensor(5, 33, 1)], run, |x| plain::activate(&x[0], activation));
        let gated = |x: &[Tensor]| plain::activate(&x[0].narrow(1, 0, 17)?, activation)? * x[0].narrow(1, 17, 17)?;
        check(&what, &[tensor(5, 34, 1)], |x| activate_gated(&x[0], activation), gated);
    }
}

#[test]
fn norms() {
    for bias in [Some(vector(33, 20)), None] {
        let (gain, eps) = (vector(33, 21), 1e-5);
        let norm = Norm::new(gain.clone(), bias.clone(), eps);
        let twin = |x: &Tensor| plain::layer_norm(x, &gain, bias.as_ref(), eps);
        check("norm", &[tensor(5, 33, 1)], |x| norm.forward(&x[0], None), |x| twin(&x[0]));
        let sum = |x: &[Tensor]| norm.of_sum(&x[0], &x[1], None);
        check("norm of a sum", &[tensor(5, 33, 1), tensor(5, 33, 2)], sum, |x| twin(&(&x[0] + &x[1])?));
    }
}

#[test]
fn attention_of_whole_tensors_and_of_views() {
    let bounds: Arc<[usize]> = Arc::from([0, 1, 8, 150]);
    for window in [None, Some(4)] {
        let twin = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let of = |x: &Tensor, start, len| x.narrow(0, start, len);
            let each =
                |start, len| plain::attention(&of(q, start, len)?, &of(k, start, len)?, &of(v, start, len)?, 2, window);
            Tensor::cat(&plain::per_sequence(&bounds, each)?, 0)
        };
        let inputs = [tensor(150, 10, 1), tensor(150, 10, 2), tensor(150, 10, 3)];
        let run = |x: &[Tensor]| attention([&x[0], &x[1], &x[2]], &bounds, 2, window);
        check("attention", &inputs, run, |x| twin(&x[0], &x[1], &x[2]));
        let third = |x: &[Tensor], i: usize| x[0].narrow(1, 10 * i, 10);
        let run = |x: &[Tensor]| attention([&third(x, 0)?, &third(x, 1)?, &third(x, 2)?], &bounds, 2, window);
        check("attention of views", &[tensor(150, 30, 4)], run, |x| twin(&third(x, 0)?, &third(x, 1)?, &third(x, 2)?));
    }
}

#[test]
fn rotary_positions() {
    let bounds: Arc<[usize]> = Arc::from([0, 3, 9]);
    let rotary = Rotary::new(6, 4, 10.0, &Device::Cpu).unwrap();
    let run = |x: &[Tensor]| rotary.forward(&x[0], &bounds);
    check("rotary", &[tensor(9, 24, 1)], run, |x| rotary.plain(&x[0], &bounds));
}

#[test]
fn pooling() {
    let bounds = [0, 1, 8, 9];
    let first = |x: &[Tensor]| plain::means(&x[0], &[0..1, 1..2, 8..9]);
    check("first rows", &[tensor(9, 33, 1)], |x| first_rows(&x[0], &bounds), first);
    let mean = |x: &[Tensor]| plain::means(&x[0], &[0..1, 1..8, 8..9]);
    check("means", &[tensor(9, 33, 1)], |x| mean_rows(&x[0], &bounds), mean);
}
