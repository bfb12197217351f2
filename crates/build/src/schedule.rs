//! Which stage is built when: as soon as its base is there, several at once while there are
//! processors for them. A stage that comes to a step which needs another one waits there, and lets
//! others work meanwhile.
//!
//! Stages only ever need stages above them, and the uppermost that is ready begins first: so the
//! uppermost that is not done never waits for another one, and the build gets on whatever the rest
//! waits for.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use robot_env_diag::{Error, Kind, Result};
use robot_env_oci::Digest;

use crate::cancel::{Cancel, cancelled};

/// Threads at once, most of which wait.
const THREADS: usize = 64;
/// Of a thread, in bytes; address space alone until it is used. Trees are walked by recursion.
const STACK: usize = 16 << 20;

/// The stages of a build, each with what came of it.
pub(crate) struct Schedule<T, E> {
    inner: Mutex<Inner<T, E>>,
    changed: Condvar,
    cancel: Cancel,
}

enum Phase<T> {
    Waiting,
    Working,
    Done(T),
}

struct Inner<T, E> {
    /// How many more may work now.
    free: usize,
    /// How many more threads may be begun.
    threads: usize,
    stages: Vec<Phase<T>>,
    /// The stage that each one builds on.
    bases: Vec<Option<usize>>,
    /// Those that the target needs.
    wanted: BTreeSet<usize>,
    /// The first error.
    error: Option<E>,
    /// Steps that somebody makes now, by their keys.
    busy: BTreeSet<Digest>,
}

impl<T: Clone + Send, E: From<Error> + Send> Schedule<T, E> {
    /// For stages with these bases, of which those in `wanted` are built, `parallel` at once. An error
    /// cancels `cancel`.
    pub(crate) fn new(bases: Vec<Option<usize>>, wanted: &[usize], parallel: usize, cancel: Cancel) -> Self {
        let inner = Inner {
            free: parallel.max(1),
            threads: THREADS,
            stages: bases.iter().map(|_| Phase::Waiting).collect(),
            bases,
            wanted: wanted.iter().copied().collect(),
            error: None,
            busy: BTreeSet::new(),
        };
        Schedule { inner: Mutex::new(inner), changed: Condvar::new(), cancel }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T, E>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds all that is wanted with `work`; gives what came of `target`.
    ///
    /// # Errors
    /// The first one of `work`; those that it causes elsewhere are not told.
    pub(crate) fn run(&self, target: usize, work: &(dyn Fn(usize) -> Result<T, E> + Sync)) -> Result<T, E> {
        thread::scope(|scope| {
            let mut inner = self.lock();
            loop {
                if inner.error.is_some() || inner.wanted.is_empty() {
                    break;
                }
                let Some(stage) = inner.next() else {
                    inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                inner.stages[stage] = Phase::Working;
                inner.free -= 1;
                inner.threads -= 1;
                drop(inner);
                let begun = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
                    let mut working = Working { schedule: self, stage, result: None };
                    working.result = Some(work(stage));
                });
                inner = self.lock();
                if let Err(error) = begun {
                    let error = Error::new(Kind::of_io(&error), "cannot begin a thread").because(error);
                    inner.fail(error.into());
                }
            }
        });
        let mut inner = self.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        match inner.stages.get(target) {
            Some(Phase::Done(result)) => Ok(result.clone()),
            _ => Err(Error::new(Kind::Internal, "the target was not built").into()),
        }
    }

    /// What came of a stage that `current` needs; it is waited for, and built if nobody wanted it yet.
    ///
    /// # Errors
    /// `InvalidInput` where it does not stand above; `Interrupted` when something failed meanwhile.
    pub(crate) fn stage(&self, number: usize, current: usize) -> Result<T> {
        if number >= current {
            return Err(Error::invalid("a stage can only take files from stages above it"));
        }
        let mut inner = self.lock();
        let mut missing = Some(number);
        while let Some(stage) = missing {
            if matches!(inner.stages[stage], Phase::Waiting) && inner.wanted.insert(stage) {
                // It must not wait for a thread that waits for it.
                inner.threads += 1;
                self.changed.notify_all();
            }
            missing = inner.bases[stage];
        }
        self.wait(inner, |inner| match &inner.stages[number] {
            Phase::Done(result) => Some(result.clone()),
            _ => None,
        })
    }

    /// The right to make the step with this key: nobody else makes the same meanwhile.
    pub(crate) fn turn(&self, key: &Digest) -> Result<Turn<'_, T, E>> {
        self.wait(self.lock(), |inner| inner.busy.insert(key.clone()).then_some(()))?;
        Ok(Turn { schedule: self, key: key.clone() })
    }

    /// Waits, and lets others work meanwhile.
    fn wait<R>(
        &self,
        mut inner: MutexGuard<'_, Inner<T, E>>,
        mut ready: impl FnMut(&mut Inner<T, E>) -> Option<R>,
    ) -> Result<R> {
        if let Some(result) = ready(&mut inner) {
            return Ok(result);
        }
        inner.free += 1;
        self.changed.notify_all();
        loop {
            if inner.error.is_some() {
                inner.free = inner.free.saturating_sub(1);
                return Err(cancelled());
            }
            if inner.free > 0
                && let Some(result) = ready(&mut inner)
            {
                inner.free -= 1;
                return Ok(result);
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T, E> Inner<T, E> {
    /// The uppermost stage that can begin now, if one may.
    fn next(&self) -> Option<usize> {
        if self.free == 0 || self.threads == 0 {
            return None;
        }
        let ready = |stage: &&usize| {
            matches!(self.stages[**stage], Phase::Waiting)
                && self.bases[**stage].is_none_or(|base| matches!(self.stages[base], Phase::Done(_)))
        };
        self.wanted.iter().find(ready).copied()
    }

    fn fail(&mut self, error: E) {
        self.error.get_or_insert(error);
    }
}

/// A stage at work: however its thread ends, the others hear of it.
struct Working<'s, T: Clone + Send, E: From<Error> + Send> {
    schedule: &'s Schedule<T, E>,
    stage: usize,
    result: Option<Result<T, E>>,
}

impl<T: Clone + Send, E: From<Error> + Send> Drop for Working<'_, T, E> {
    fn drop(&mut self) {
        let mut inner = self.schedule.lock();
        inner.free += 1;
        inner.threads += 1;
        inner.wanted.remove(&self.stage);
        match self.result.take() {
            Some(Ok(result)) => inner.stages[self.stage] = Phase::Done(result),
            Some(Err(error)) => inner.fail(error),
            None => inner.fail(Error::new(Kind::Internal, "a thread of the build panicked").into()),
        }
        if inner.error.is_some() {
            self.schedule.cancel.cancel();
        }
        self.schedule.changed.notify_all();
    }
}

/// See [`Schedule::turn`].
pub(crate) struct Turn<'s, T: Clone + Send, E: From<Error> + Send> {
    schedule: &'s Schedule<T, E>,
    key: Digest,
}

impl<T: Clone + Send, E: From<Error> + Send> Drop for Turn<'_, T, E> {
    fn drop(&mut self) {
        self.schedule.lock().busy.remove(&self.key);
        self.schedule.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn schedule(bases: &[Option<usize>], wanted: &[usize], parallel: usize) -> Schedule<usize, Error> {
        Schedule::new(bases.to_vec(), wanted, parallel, Cancel::new().unwrap())
    }

    #[test]
    fn independent_stages_work_at_once_and_bases_come_first() {
        let barrier = Barrier::new(2);
        let schedule = schedule(&[None, None, Some(0), None], &[0, 1, 2], 2);
        let result = schedule.run(2, &|stage| {
            match stage {
                // Neither gets on without the other.
                0 | 1 => drop(barrier.wait()),
                2 => assert_eq!(schedule.stage(0, 2).unwrap(), 10),
                _ => panic!("nobody wants it"),
            }
            Ok(stage + 10)
        });
        assert_eq!(result.unwrap(), 12);
    }

    #[test]
    fn no_more_work_than_allowed_and_waiting_is_no_work() {
        let (working, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let bases = vec![None; 200];
        let all: Vec<usize> = (0..200).collect();
        let schedule = schedule(&bases, &all, 2);
        let sum = schedule.run(199, &|stage| {
            let now = working.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::yield_now();
            working.fetch_sub(1, Ordering::SeqCst);
            if stage == 0 { Ok(0) } else { schedule.stage(stage - 1, stage).map(|below| below + stage) }
        });
        assert_eq!(sum.unwrap(), 199 * 200 / 2);
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn what_nobody_wanted_is_built_when_it_is_asked_for() {
        let schedule = schedule(&[None, Some(0), None, None], &[3], 1);
        let result = schedule.run(3, &|stage| match stage {
            3 => schedule.stage(1, 3),
            2 => panic!("nobody asks for it"),
            _ => Ok(stage),
        });
        assert_eq!(result.unwrap(), 1);
        assert!(schedule.stage(3, 3).is_err());
    }

    #[test]
    fn the_first_error_wins_and_ends_the_others() {
        let barrier = Barrier::new(2);
        let schedule = schedule(&[None, None, Some(0)], &[0, 1, 2], 4);
        let error = schedule
            .run(2, &|stage| match stage {
                0 => {
                    barrier.wait();
                    Err(Error::invalid("first"))
                }
                1 => {
                    barrier.wait();
                    while !schedule.cancel.is_cancelled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(schedule.cancel.check().unwrap_err())
                }
                _ => panic!("its base is not there"),
            })
            .unwrap_err();
        assert_eq!(error.message(), "first");
    }

    #[test]
    fn the_same_step_is_made_once_at_a_time() {
        let busy = AtomicUsize::new(0);
        let key = Digest::of(b"step");
        let schedule = schedule(&[None, None, None], &[0, 1, 2], 3);
        let result = schedule.run(2, &|stage| {
            let _turn = schedule.turn(&key)?;
            assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::sleep(Duration::from_millis(5));
            busy.fetch_sub(1, Ordering::SeqCst);
            Ok(stage)
        });
        assert_eq!(result.unwrap(), 2);
    }
}
