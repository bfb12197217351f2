//! What a build does, as clients show it: steps ("vertexes"), how far they are, what they print.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use robot_env_build::{Failure, Observer};
use robot_env_engine::stream::Stream;
use robot_env_oci::Digest;
use robot_env_transfer::Amount;
use tokio::sync::Notify;

use super::messages::Timestamp;
use super::messages::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};

/// How many bytes wait for a client before a build waits for it, and how long it does.
const WAITING: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is told how far a transfer is.
const OFTEN: Duration = Duration::from_millis(100);

/// What clients take for the word of a step that was ended from outside.
const CANCELLED: &str = "context canceled";

/// What is told of one build. One client hears it; until it listens, its output is kept as far as
/// there is room.
#[derive(Default)]
pub(crate) struct Progress {
    name: String,
    inner: Mutex<Inner>,
    more: Notify,
    room: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<(StatusResponse, usize)>,
    bytes: usize,
    steps: usize,
    listened: bool,
    deaf: bool,
    ended: bool,
}

impl Progress {
    /// Of the build that clients know by this name.
    pub(crate) fn new(name: &str) -> Progress {
        Progress { name: name.to_owned(), ..Progress::default() }
    }

    /// Tells something of so many bytes; `vital` is kept even where there is no room.
    fn tell(&self, message: StatusResponse, bytes: usize, vital: bool) {
        let Ok(mut inner) = self.inner.lock() else { return };
        let bytes = bytes + 128;
        if inner.bytes + bytes > WAITING && inner.listened && !inner.deaf {
            let full = |inner: &mut Inner| inner.bytes + bytes > WAITING && !inner.ended && !inner.deaf;
            let Ok((waited, _)) = self.room.wait_timeout_while(inner, PATIENCE, full) else { return };
            inner = waited;
            // Whoever does not listen so long holds a build up once.
            inner.deaf = inner.bytes + bytes > WAITING;
        }
        if inner.ended || inner.bytes + bytes > WAITING && !vital {
            return;
        }
        inner.bytes += bytes;
        inner.waiting.push_back((message, bytes));
        self.more.notify_one();
    }

    /// Begins to listen; `false` when somebody does already.
    pub(crate) fn listen(&self) -> bool {
        self.inner.lock().is_ok_and(|mut inner| !std::mem::replace(&mut inner.listened, true))
    }

    /// What is told next; `None` when the build is over.
    pub(crate) async fn next(&self) -> Option<StatusResponse> {
        loop {
            let more = self.more.notified();
            {
                let mut inner = self.inner.lock().ok()?;
                if let Some((mut message, bytes)) = inner.waiting.pop_front() {
                    inner.bytes -= bytes;
                    // Many small ones go as one.
                    while let Some((next, bytes)) = inner.waiting.pop_front() {
                        inner.bytes -= bytes;
                        message.vertexes.extend(next.vertexes);
                        message.statuses.extend(next.statuses);
                        message.logs.extend(next.logs);
                        message.warnings.extend(next.warnings);
                        if message.logs.iter().map(|log| log.message.len()).sum::<usize>() > 64 << 10 {
                            break;
                        }
                    }
                    self.room.notify_all();
                    return Some(message);
                }
                if inner.ended {
                    return None;
                }
            }
            more.await;
        }
    }

    /// There is nothing more to tell.
    pub(crate) fn end(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.ended = true;
        }
        self.room.notify_all();
        self.more.notify_one();
    }

    /// A step begins.
    pub(crate) fn begin(self: &Arc<Progress>, name: &str) -> Step {
        let number = self.inner.lock().map_or(0, |mut inner| {
            inner.steps += 1;
            inner.steps
        });
        let digest = Digest::of(format!("{} {number} {name}", self.name).as_bytes()).to_string();
        let vertex =
            Vertex { digest, name: name.to_owned(), started: Some(Timestamp::now()), ..Vertex::default() };
        let step = Step { progress: self.clone(), vertex, parts: HashMap::new(), over: false };
        step.tell();
        step
    }

    /// Something is not as it was asked for, but goes on.
    pub(crate) fn warn(self: &Arc<Progress>, text: &str) {
        let mut step = self.begin(&format!("[warning] {text}"));
        let warning = VertexWarning {
            vertex: step.vertex.digest.clone(),
            level: 1,
            short: text.as_bytes().to_vec(),
            ..VertexWarning::default()
        };
        self.tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() }, text.len(), true);
        step.end(None);
    }
}

/// A step of a build. Dropped before its end, it was cancelled.
pub(crate) struct Step {
    progress: Arc<Progress>,
    vertex: Vertex,
    parts: HashMap<String, (Timestamp, Instant)>,
    over: bool,
}

impl Step {
    fn tell(&self) {
        let message = StatusResponse { vertexes: vec![self.vertex.clone()], ..StatusResponse::default() };
        self.progress.tell(message, self.vertex.name.len(), true);
    }

    /// Its result was there already.
    pub(crate) fn cached(&mut self) {
        self.vertex.cached = true;
    }

    /// It is over.
    pub(crate) fn end(&mut self, error: Option<String>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.vertex.completed = Some(Timestamp::now());
        self.vertex.error = error.unwrap_or_default();
        self.tell();
    }

    /// Ends it as this result says, and gives that back.
    pub(crate) fn ended<T, E: std::fmt::Display>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.end(result.as_ref().err().map(ToString::to_string));
        result
    }

    /// A part of it is so far.
    pub(crate) fn part(&mut self, name: &str, amount: Amount, over: bool) {
        let now = Timestamp::now();
        let known = self.parts.get(name);
        if known.is_some_and(|(_, told)| told.elapsed() < OFTEN) && !over {
            return;
        }
        let started = known.map_or(now, |(started, _)| *started);
        self.parts.insert(name.to_owned(), (started, Instant::now()));
        let status = VertexStatus {
            id: name.to_owned(),
            vertex: self.vertex.digest.clone(),
            name: name.to_owned(),
            current: amount.done as i64,
            total: amount.total as i64,
            timestamp: Some(now),
            started: Some(started),
            completed: over.then_some(now),
        };
        self.progress.tell(
            StatusResponse { statuses: vec![status], ..StatusResponse::default() },
            name.len(),
            over,
        );
    }

    /// It prints something.
    pub(crate) fn output(&self, stream: Stream, bytes: &[u8]) {
        let log = VertexLog {
            vertex: self.vertex.digest.clone(),
            timestamp: Some(Timestamp::now()),
            stream: if stream == Stream::Stdout { 1 } else { 2 },
            message: bytes.to_vec(),
        };
        self.progress.tell(
            StatusResponse { logs: vec![log], ..StatusResponse::default() },
            bytes.len(),
            false,
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end(Some(CANCELLED.to_owned()));
    }
}

/// Hears of the builder's steps.
pub(crate) struct Steps {
    progress: Arc<Progress>,
    steps: HashMap<usize, Step>,
    /// Those that failed; why is known at the end.
    failed: Vec<(usize, Step)>,
    failure: Option<Failure>,
}

impl Steps {
    /// Tells of them there.
    pub(crate) fn new(progress: Arc<Progress>) -> Steps {
        Steps { progress, steps: HashMap::new(), failed: Vec::new(), failure: None }
    }

    /// The build is over; where in the Dockerfile it failed.
    pub(crate) fn end(mut self, error: Option<&str>) -> Option<Failure> {
        let culprit = self.failure.as_ref().and_then(|failure| failure.step);
        for (number, mut step) in self.failed.drain(..) {
            // The others were ended because of the one.
            let own = culprit.is_none_or(|culprit| culprit == number);
            step.end(Some(error.filter(|_| own).unwrap_or(CANCELLED).to_owned()));
        }
        self.failure
    }
}

impl Observer for Steps {
    fn begin(&mut self, step: usize, label: &str) {
        self.steps.insert(step, self.progress.begin(label));
    }

    fn cached(&mut self, step: usize) {
        if let Some(mut step) = self.steps.remove(&step) {
            step.cached();
            step.end(None);
        }
    }

    fn output(&mut self, step: usize, stream: Stream, bytes: &[u8]) {
        if let Some(step) = self.steps.get(&step) {
            step.output(stream, bytes);
        }
    }

    fn done(&mut self, step: usize, _time: Duration) {
        if let Some(mut step) = self.steps.remove(&step) {
            step.end(None);
        }
    }

    fn failed(&mut self, step: usize) {
        self.failed.extend(self.steps.remove(&step).map(|shown| (step, shown)));
    }

    fn failure(&mut self, failure: &Failure) {
        self.failure = Some(failure.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(progress: &Progress) -> Vec<StatusResponse> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut out = Vec::new();
            while let Some(message) = progress.next().await {
                out.push(message);
            }
            out
        })
    }

    #[test]
    fn steps_are_told_in_order() {
        let progress = Arc::new(Progress::new("b"));
        let mut steps = Steps::new(progress.clone());
        steps.begin(1, "[1/2] FROM x");
        steps.cached(1);
        steps.begin(2, "[2/2] RUN false");
        steps.output(2, Stream::Stderr, b"bad\n");
        steps.failed(2);
        assert!(steps.end(Some("exit code 1")).is_none());
        progress.end();
        let told = all(&progress);
        let vertexes: Vec<_> = told.iter().flat_map(|message| &message.vertexes).collect();
        assert_eq!(vertexes.len(), 4);
        assert!(vertexes[1].cached && vertexes[1].completed.is_some() && !vertexes[0].cached);
        assert_eq!((vertexes[3].error.as_str(), &vertexes[3].digest), ("exit code 1", &vertexes[2].digest));
        assert_ne!(vertexes[0].digest, vertexes[2].digest);
        let logs: Vec<_> = told.iter().flat_map(|message| &message.logs).collect();
        assert_eq!((logs[0].stream, logs[0].message.as_slice()), (2, &b"bad\n"[..]));
    }

    #[test]
    fn output_that_nobody_hears_is_bounded() {
        let progress = Arc::new(Progress::new("b"));
        let mut step = progress.begin("RUN yes");
        for _ in 0..1000 {
            step.output(Stream::Stdout, &[b'y'; 64 << 10]);
        }
        step.end(None);
        progress.end();
        assert!(progress.inner.lock().unwrap().bytes <= WAITING + 1024);
        let told = all(&progress);
        let bytes: usize = told.iter().flat_map(|m| &m.logs).map(|log| log.message.len()).sum();
        assert!(bytes > 1 << 20 && bytes <= WAITING);
        assert!(told.iter().flat_map(|m| &m.vertexes).any(|vertex| vertex.completed.is_some()));
    }
}
