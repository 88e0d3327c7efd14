//! One text through many adapters: a pass for each backbone among them, all at once.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{join_all, try_join_all};

use crate::domain::{Error, Family, Result, TextInput};
use crate::serving::flow::{Caller, Flow};
use crate::serving::inference::Inner;
use crate::serving::inference::answer::{Ready, check_inputs};
use crate::serving::inference::decode::Computed;
use crate::serving::inference::names::Asking;
use crate::serving::inference::pass::{Pass, Passed};
use crate::serving::inference::request::{AnalyzeRequest, AnalyzeTarget, Answer, Task, Timings};
use crate::serving::registry::Lease;
use crate::serving::scheduler::Progress;

impl Inner {
    pub(super) async fn analyze(
        &self,
        request: AnalyzeRequest,
        deadline: Instant,
        progress: Arc<Progress>,
    ) -> Result<Vec<(String, Result<Answer>)>> {
        check_inputs(&request.inputs)?;
        let asking = Asking { deadline, caller: Caller::single(), progress };
        let targets = request.targets.iter().map(|target| self.ready_target(target, &request, &asking));
        let ready = join_all(targets).await;
        let groups = by_backbone(&ready);
        let mut passes = Vec::new();
        for group in &groups {
            passes.push(self.analysis(&ready, group, request.inputs.clone(), &asking));
        }
        let passed = try_join_all(passes).await?;
        let timings = passed.iter().map(|passed| passed.timings).fold(Timings::default(), slower);
        let mut answers: Vec<Option<Result<Answer>>> = ready.iter().map(|_| None).collect();
        for (group, passed) in groups.iter().zip(passed) {
            let Passed { texts, computed, ticket, .. } = passed;
            for (&at, computed) in group.iter().zip(computed) {
                let Ok(ready) = &ready[at] else { continue };
                let timings = ready.timings.then(timings);
                let decode = |computed: Vec<Computed>| self.decode(ready, &texts, &computed, timings);
                answers[at] = Some(computed.and_then(decode));
            }
            drop(ticket);
        }
        let refused =
            |ready: Result<Ready>| Err(ready.err().unwrap_or_else(|| Error::internal("a target was not computed")));
        let answers: Vec<Result<Answer>> =
            answers.into_iter().zip(ready).map(|(answer, ready)| answer.unwrap_or_else(|| refused(ready))).collect();
        let decode = answers.iter().flatten().map(|answer| answer.timings.decode).sum();
        self.observe(&Timings { decode, ..timings });
        let asked = request.targets.into_iter().map(|AnalyzeTarget { asked, .. }| asked);
        Ok(asked.zip(answers).collect())
    }

    async fn ready_target(&self, target: &AnalyzeTarget, request: &AnalyzeRequest, asking: &Asking) -> Result<Ready> {
        let lease = self.registry.lease(&target.adapter).await?;
        let task = match lease.adapter.identity.family {
            Family::Ner => Task::Ner(request.ner.clone()),
            Family::Classify => Task::Classify(request.classify.clone()),
        };
        self.ready(task, lease, &request.inputs, asking).await
    }

    /// The targets of one backbone; there is at least one in `group`.
    async fn analysis(
        &self,
        ready: &[Result<Ready>],
        group: &[usize],
        inputs: Vec<TextInput>,
        asking: &Asking,
    ) -> Result<Passed> {
        let of_group: Vec<&Ready> = group.iter().filter_map(|&at| ready[at].as_ref().ok()).collect();
        let targets = of_group.iter().map(|ready| self.target(ready)).collect();
        let tokenizer = of_group[0].lease.backbone.tokenizer.clone();
        let Asking { deadline, caller, progress } = asking.clone();
        let pass = Pass { tokenizer, inputs, targets, flow: Flow::Analyze, caller, deadline, progress };
        self.line.run(pass).await
    }
}

/// Indices of the targets of each backbone.
fn by_backbone(ready: &[Result<Ready>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(&Lease, Vec<usize>)> = Vec::new();
    for (at, ready) in ready.iter().enumerate() {
        let Ok(Ready { lease, .. }) = ready else { continue };
        match groups.iter_mut().find(|(first, _)| Arc::ptr_eq(&first.backbone, &lease.backbone)) {
            Some((_, group)) => group.push(at),
            None => groups.push((lease, vec![at])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Passes run beside each other: the request takes as long as the slowest.
fn slower(a: Timings, b: Timings) -> Timings {
    let (queue, tokenize) = (a.queue.max(b.queue), a.tokenize.max(b.tokenize));
    Timings { queue, tokenize, compute: a.compute.max(b.compute), decode: a.decode.max(b.decode) }
}
