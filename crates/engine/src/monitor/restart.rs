//! When a container is started again.

use std::time::Duration;

use robot_env_spec::RestartPolicy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::monitor::container::stop_signals;
use crate::record::StateRecord;

/// The first pause before a restart; each one is twice the last (Docker's numbers).
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A process that ran so long starts anew with the first pause.
const SOUND: Duration = Duration::from_secs(10);

/// How long the next restart waits.
#[derive(Debug, Default)]
pub(super) struct Backoff(Duration);

/// What comes after an exit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The container stays as it is.
    Stay,
    /// It is started again after a pause.
    Again(Duration),
}

/// What the policy says after an exit with `code` of a process that ran for `ran`.
pub(super) fn decide(
    policy: RestartPolicy,
    code: i32,
    state: &StateRecord,
    backoff: &mut Backoff,
    ran: Duration,
) -> Decision {
    let wanted = !state.stopped_by_user
        && match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { maximum } => {
                code != 0 && (maximum == 0 || state.restart_count < maximum)
            }
        };
    if !wanted {
        return Decision::Stay;
    }
    backoff.0 = match backoff.0 {
        Duration::ZERO => FIRST,
        _ if ran >= SOUND => FIRST,
        last => (last * 2).min(LONGEST),
    };
    Decision::Again(backoff.0)
}

/// Waits; true when somebody asked to stop meanwhile.
pub(super) fn wait(pause: Duration) -> bool {
    let Ok(signals) = stop_signals() else {
        std::thread::sleep(pause);
        return false;
    };
    let timeout = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
    let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&timeout));
    signals.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_by_code_count_and_user() {
        let run = |policy, code, count, stopped| {
            let state = StateRecord { restart_count: count, stopped_by_user: stopped, ..Default::default() };
            decide(policy, code, &state, &mut Backoff::default(), Duration::ZERO) != Decision::Stay
        };
        let on_failure = |maximum| RestartPolicy::OnFailure { maximum };
        for (policy, code, count, stopped, again) in [
            (RestartPolicy::No, 1, 0, false, false),
            (RestartPolicy::Always, 0, 9, false, true),
            (RestartPolicy::Always, 0, 0, true, false),
            (RestartPolicy::UnlessStopped, 0, 0, false, true),
            (on_failure(0), 0, 0, false, false),
            (on_failure(0), 1, 99, false, true),
            (on_failure(2), 1, 1, false, true),
            (on_failure(2), 1, 2, false, false),
        ] {
            assert_eq!(run(policy, code, count, stopped), again, "{policy:?} {code} {count} {stopped}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_start_anew_after_a_sound_run() {
        let (mut backoff, state) = (Backoff::default(), StateRecord::default());
        let mut next = |ran| match decide(RestartPolicy::Always, 1, &state, &mut backoff, ran) {
            Decision::Again(pause) => pause.as_millis(),
            Decision::Stay => panic!("the policy is always"),
        };
        let pauses: Vec<u128> = (0..12).map(|_| next(Duration::ZERO)).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 60_000);
        assert_eq!(next(Duration::from_secs(11)), 100);
    }
}
