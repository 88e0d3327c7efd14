//! When a batch fails as a whole, finds who did it: the guilty fail, the others are answered.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

use crate::domain::{Error, Result};

/// Runs `items` together. If that fails or panics, halves them until each culprit is alone: about
/// 2·log₂(n) more passes for one culprit, over ever fewer items.
pub(super) fn isolate<T, R>(items: &[T], run: &impl Fn(&[T]) -> Result<Vec<Result<R>>>) -> Vec<Result<R>> {
    let failure = match guarded(|| run(items)) {
        Ok(outputs) => return outputs,
        Err(failure) => failure,
    };
    if items.len() <= 1 {
        return items.iter().map(|_| Err(failure.clone())).collect();
    }
    let (left, right) = items.split_at(items.len() / 2);
    let mut outputs = isolate(left, run);
    outputs.extend(isolate(right, run));
    outputs
}

/// Turns a panic into an error. What `run` touches is shared read-only, so nothing is left half changed.
fn guarded<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        error!(panic = message(&*panic), "forward pass panicked");
        Err(Error::internal("the forward pass failed unexpectedly"))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each item answers itself; `e` fails the whole run, `p` panics.
    fn run(items: &[char]) -> Result<Vec<Result<char>>> {
        assert!(!items.contains(&'p'), "poison");
        if items.contains(&'e') {
            return Err(Error::internal("no"));
        }
        Ok(items.iter().map(|&item| Ok(item)).collect())
    }

    #[track_caller]
    fn check(items: &str, expected: &str) {
        let items: Vec<char> = items.chars().collect();
        let outputs = isolate(&items, &run);
        let seen: String = outputs.into_iter().map(|output| output.unwrap_or('!')).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn only_the_guilty_fail() {
        check("", "");
        check("abc", "abc");
        check("abecd", "ab!cd");
        check("p", "!");
        check("apbecd", "a!b!cd");
        check("eeee", "!!!!");
    }
}
