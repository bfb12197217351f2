//! `exec`: further processes in containers, made first and started later.
//!
//! This server alone knows them, by id: they are forgotten some time after they have ended, and when
//! the server ends (the processes themselves go on).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use robot_env_diag::{Error, Kind};
use robot_env_engine::record::State;
use robot_env_engine::stream::{Frame, Hello};
use robot_env_engine::{Engine, ExecRequest, ExecStarted};
use robot_env_wire::{ExecConfig, ExecInspect, ExecProcess, ExecStart};
use tokio::sync::mpsc;

use crate::failure::{Failure, Result, text_of};
use crate::http::{Reply, Upgraded};
use crate::routes::Call;
use crate::server::Server;
use crate::stream::{self, End, Sizes, Wire, Wiring};

/// How long an exec is known after its end.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many are known, and of how many bytes that clients gave: of those that have ended and those that
/// were not started the oldest are forgotten first.
const MOST: usize = 4096;
const MOST_BYTES: usize = 16 << 20;

/// The execs of this server.
#[derive(Default)]
pub(crate) struct Execs(Mutex<Known>);

/// Execs, and the order in which they are forgotten.
#[derive(Default)]
struct Known {
    execs: HashMap<String, Exec>,
    /// Those that were not started, and those that have ended, by the turn at which they came there.
    made: BTreeMap<u64, String>,
    ended: BTreeMap<u64, String>,
    turn: u64,
    bytes: usize,
}

struct Exec {
    container: String,
    config: ExecConfig,
    phase: Phase,
    /// When it came into its phase.
    since: Instant,
    turn: u64,
    /// Until it ends.
    sizes: Option<mpsc::Sender<(u16, u16)>>,
    /// Until it is started.
    waiting_sizes: Option<Sizes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Made,
    Started { pid: i32 },
    Ended { code: i32 },
}

impl Exec {
    fn new(container: String, config: ExecConfig) -> Exec {
        let (sizes, waiting) = mpsc::channel(8);
        if let Some([rows, columns]) = config.console_size {
            let _ = sizes.try_send((rows as u16, columns as u16));
        }
        Exec {
            container,
            config,
            phase: Phase::Made,
            since: Instant::now(),
            turn: 0,
            sizes: Some(sizes),
            waiting_sizes: Some(waiting),
        }
    }

    /// The bytes that a client gave.
    fn bytes(&self) -> usize {
        let ExecConfig { cmd, env, working_dir, user, detach_keys, .. } = &self.config;
        let words = cmd.iter().chain(env.iter().flatten()).chain([working_dir, user]).chain(detach_keys);
        words.map(|word| word.len() + size_of::<String>()).sum()
    }

    /// A size of its terminal. Of many at once some may be left out; the client sends more.
    fn resize(&self, size: (u16, u16)) {
        if let Some(sizes) = &self.sizes {
            let _ = sizes.try_send(size);
        }
    }
}

impl Known {
    fn add(&mut self, id: String, mut exec: Exec) {
        self.turn += 1;
        exec.turn = self.turn;
        self.bytes += exec.bytes();
        self.made.insert(exec.turn, id.clone());
        self.execs.insert(id, exec);
        self.forget();
    }

    fn enter(&mut self, id: &str, phase: Phase) {
        // One that was forgotten has nothing to enter.
        let Some(exec) = self.execs.get_mut(id) else { return };
        self.made.remove(&exec.turn);
        (exec.phase, exec.since) = (phase, Instant::now());
        if let Phase::Ended { .. } = phase
            && !self.ended.contains_key(&exec.turn)
        {
            self.bytes -= exec.bytes();
            // Who asks what has become of it does not ask for these.
            (exec.config.env, exec.config.working_dir) = (None, String::new());
            (exec.sizes, exec.waiting_sizes) = (None, None);
            self.bytes += exec.bytes();
            self.turn += 1;
            exec.turn = self.turn;
            self.ended.insert(exec.turn, id.to_owned());
        }
        self.forget();
    }

    /// Forgets what ended long ago, and the oldest of what is too much.
    fn forget(&mut self) {
        loop {
            let is_too_much = self.execs.len() > MOST || self.bytes > MOST_BYTES;
            let is_old =
                |id: &String| self.execs.get(id).is_none_or(|exec| exec.since.elapsed() >= REMEMBERED);
            let oldest = match self.ended.first_key_value() {
                Some((turn, id)) if is_too_much || is_old(id) => self.ended.remove(&turn.clone()),
                None if is_too_much && self.made.len() > 1 => self.made.pop_first().map(|(_, id)| id),
                _ => None,
            };
            let Some(oldest) = oldest else { return };
            if let Some(exec) = self.execs.remove(&oldest) {
                self.bytes -= exec.bytes();
            }
        }
    }
}

impl Execs {
    fn known(&self) -> Result<MutexGuard<'_, Known>> {
        self.0.lock().map_err(|_| Failure::new(500, "the list of execs is damaged"))
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Exec) -> T) -> Result<T> {
        let mut known = self.known()?;
        let exec = known
            .execs
            .get_mut(id)
            .ok_or_else(|| Failure::new(404, format!("No such exec instance: {id}")))?;
        Ok(act(exec))
    }

    fn enter(&self, id: &str, phase: Phase) {
        if let Ok(mut known) = self.known() {
            known.enter(id, phase);
        }
    }

    /// The ids of a container's execs that have not ended.
    pub(crate) fn of(&self, container: &str) -> Vec<String> {
        let Ok(known) = self.known() else { return Vec::new() };
        let is_live = |exec: &Exec| !matches!(exec.phase, Phase::Ended { .. });
        let live = known.execs.iter().filter(|(_, exec)| exec.container == container && is_live(exec));
        let mut ids: Vec<String> = live.map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    }
}

/// `POST /containers/{id}/exec`
pub(crate) async fn create(call: &mut Call<'_, '_>, name: &str) -> Result<Reply> {
    let config: ExecConfig = call.document().await?;
    if config.cmd.is_empty() {
        return Err(Failure::new(400, "No exec command specified"));
    }
    stream::detach_keys(config.detach_keys.as_deref())?;
    let (text, command) = (name.to_owned(), config.cmd.join(" "));
    let user = Some(config.user.clone()).filter(|user| !user.is_empty());
    let (container, id) = call
        .server
        .blocking(move |engine| {
            let container = engine.container(&text)?;
            let full = &container.record.id;
            let conflict = |text: String| Err(Error::new(Kind::Conflict, text));
            match &container.state.state {
                State::Running { paused: true, .. } => {
                    return conflict(format!(
                        "Container {text} is paused, unpause the container before exec"
                    ));
                }
                State::Running { .. } => {}
                State::Restarting { .. } => {
                    return conflict(format!(
                        "Container {full} is restarting, wait until the container is running"
                    ));
                }
                _ => return conflict(format!("container {full} is not running")),
            }
            if let Some(user) = &user {
                engine.check_user(&container, user)?;
            }
            let id = Engine::new_exec_id()?;
            engine.tell(&container.record, &format!("exec_create: {command}"), &[("execID", id.clone())]);
            Ok((container.record.id.to_string(), id))
        })
        .await?;
    call.server.execs.known()?.add(id.clone(), Exec::new(container, config));
    Ok(Reply::json(201, &serde_json::json!({ "Id": id })))
}

/// `POST /exec/{id}/start`
pub(crate) async fn start(call: &mut Call<'_, '_>, id: &str) -> Result<Reply> {
    let options: ExecStart = call.optional_document().await?.unwrap_or_default();
    let server = call.server;
    // Whoever takes the sizes starts it.
    let taken = server.execs.with(id, |exec| {
        let sizes = exec.waiting_sizes.take();
        (exec.container.clone(), exec.config.clone(), sizes, exec.phase)
    })?;
    let (container, config, sizes, phase) = taken;
    let protocol = call.head.upgrade().map(str::to_owned);
    let kind = if protocol.is_some() { stream::kind(config.tty, call.version) } else { stream::RAW };
    let tty = config.tty;
    let Some(sizes) = sizes else {
        let word =
            if matches!(phase, Phase::Ended { .. }) { "has already run" } else { "is already running" };
        let text = format!("exec command {id} {word}\r\n");
        if options.detach {
            return Err(Failure::new(409, text.trim_end()));
        }
        // Odd, but what Docker does: the mistake is told in the stream.
        return Ok(Reply::takeover(
            protocol.as_deref(),
            kind,
            Box::new(move |mut client| {
                Box::pin(async move {
                    stream::complain(&mut client, tty, &text).await;
                })
            }),
        ));
    };
    if let Some([rows, columns]) = options.console_size {
        let _ = server.execs.with(id, |exec| exec.resize((rows as u16, columns as u16)));
    }
    let detach = options.detach;
    let hello = if detach {
        Hello::default()
    } else {
        Hello {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr && !tty,
        }
    };
    let request = ExecRequest {
        gui: false,
        id: Some(id.to_owned()),
        args: config.cmd.clone(),
        env: config.env.clone().unwrap_or_default(),
        working_dir: Some(config.working_dir.clone()).filter(|path| !path.is_empty()),
        user: Some(config.user.clone()).filter(|user| !user.is_empty()),
        tty,
        privileged: config.privileged,
        attach: Some(hello),
    };
    let wiring = Wiring {
        tty,
        plain: tty,
        stdin: hello.stdin,
        keys: stream::detach_keys(config.detach_keys.as_deref())?,
    };
    let started = server.blocking_error(move |engine| engine.exec(&container, request)).await;
    let id = id.to_owned();
    match started {
        Ok(ExecStarted { pid, attachment }) => {
            server.execs.enter(&id, Phase::Started { pid });
            let Some(attachment) = attachment else {
                return Err(Failure::new(500, "the exec has no connection"));
            };
            let wire = Wire::new(attachment)?;
            if detach {
                tokio::spawn(watch(server, id, wire));
                return Ok(Reply::empty(200));
            }
            Ok(Reply::takeover(
                protocol.as_deref(),
                kind,
                Box::new(move |client| Box::pin(stand(server, id, client, wire, wiring, sizes))),
            ))
        }
        Err(error) => {
            let code = match error.kind() {
                Kind::CommandNotFound => 127,
                Kind::CommandNotExecutable => 126,
                Kind::Conflict | Kind::NotFound => {
                    server.execs.enter(&id, Phase::Ended { code: 126 });
                    return Err(error.into());
                }
                _ => 126,
            };
            server.execs.enter(&id, Phase::Ended { code });
            if detach || protocol.is_none() && call.version < crate::routes::Version(1, 30) {
                return Err(error.into());
            }
            let text = format!("{}\r\n", text_of(&error));
            Ok(Reply::takeover(
                protocol.as_deref(),
                kind,
                Box::new(move |mut client| {
                    Box::pin(async move {
                        stream::complain(&mut client, tty, &text).await;
                    })
                }),
            ))
        }
    }
}

/// Connects a client with a process until either ends. Its end is known before the client hears of
/// it.
async fn stand(
    server: &'static Server,
    id: String,
    mut client: Upgraded<'_>,
    mut wire: Wire,
    wiring: Wiring,
    mut sizes: Sizes,
) {
    match wire.connect(&mut client, &wiring, &mut sizes).await {
        End::Exited(notice) => server.execs.enter(&id, Phase::Ended { code: notice.code }),
        End::Lost => server.execs.enter(&id, Phase::Ended { code: 255 }),
        end @ (End::Detached | End::Gone) => {
            if end == End::Gone && wiring.stdin {
                let _ = wire.send(&Frame::StdinEnd).await;
            }
            tokio::spawn(watch(server, id, wire));
        }
    }
}

/// Waits for the end of a process that nobody is connected with.
async fn watch(server: &'static Server, id: String, mut wire: Wire) {
    let code = wire.ended().await.map_or(255, |notice| notice.code);
    server.execs.enter(&id, Phase::Ended { code });
}

/// `POST /exec/{id}/resize`
pub(crate) fn resize(call: &Call<'_, '_>, id: &str) -> Result<Reply> {
    let size = crate::containers::size(&call.query)?;
    call.server.execs.with(id, |exec| {
        if let Phase::Ended { .. } = exec.phase {
            return Err(Failure::new(409, format!("exec {id} is not running")));
        }
        exec.resize(size);
        Ok(Reply::empty(200))
    })?
}

/// `GET /exec/{id}/json`
pub(crate) fn inspect(call: &Call<'_, '_>, id: &str) -> Result<Reply> {
    let shape = call.server.execs.with(id, |exec| {
        let (pid, exit_code) = match exec.phase {
            Phase::Made => (0, None),
            Phase::Started { pid } => (pid, None),
            Phase::Ended { code } => (0, Some(code)),
        };
        let mut words = exec.config.cmd.clone();
        let entrypoint = if words.is_empty() { String::new() } else { words.remove(0) };
        ExecInspect {
            id: id.to_owned(),
            running: matches!(exec.phase, Phase::Started { .. }),
            exit_code,
            process_config: ExecProcess {
                tty: exec.config.tty,
                entrypoint,
                arguments: words,
                privileged: exec.config.privileged,
                user: exec.config.user.clone(),
            },
            open_stdin: exec.config.attach_stdin,
            open_stderr: exec.config.attach_stderr,
            open_stdout: exec.config.attach_stdout,
            can_remove: matches!(exec.phase, Phase::Ended { .. }),
            container_id: exec.container.clone(),
            detach_keys: exec.config.detach_keys.clone().unwrap_or_default(),
            pid,
        }
    })?;
    Ok(Reply::json(200, &shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(bytes: usize) -> Exec {
        let config = ExecConfig {
            cmd: vec!["true".into()],
            env: Some(vec!["x".repeat(bytes)]),
            ..ExecConfig::default()
        };
        Exec::new("box".into(), config)
    }

    #[test]
    fn the_oldest_that_have_ended_are_forgotten_first() {
        let mut known = Known::default();
        for number in 0..MOST {
            known.add(number.to_string(), exec(10));
        }
        assert_eq!(known.execs.len(), MOST);
        known.enter("7", Phase::Started { pid: 1 });
        known.enter("5", Phase::Started { pid: 1 });
        known.enter("5", Phase::Ended { code: 0 });
        known.add("a".into(), exec(10));
        assert!(!known.execs.contains_key("5") && known.execs.contains_key("0"));
        known.add("b".into(), exec(10));
        known.add("c".into(), exec(10));
        // None has ended: what was not started goes, and never what runs.
        assert!(!known.execs.contains_key("0") && !known.execs.contains_key("1"));
        for number in 0..MOST {
            known.add(format!("later {number}"), exec(10));
        }
        assert!(known.execs.contains_key("7") && known.execs.len() == MOST);
        assert_eq!(known.made.len() + known.ended.len() + 1, known.execs.len());
    }

    #[test]
    fn what_clients_give_has_a_bound() {
        let mut known = Known::default();
        for number in 0..40 {
            known.add(number.to_string(), exec(1 << 20));
            assert!(known.bytes <= MOST_BYTES + (1 << 20) + 200, "{}", known.bytes);
        }
        assert!(known.execs.len() < 17 && known.execs.contains_key("39"));
        known.enter("39", Phase::Started { pid: 1 });
        known.enter("39", Phase::Ended { code: 3 });
        // Told twice, it has ended once.
        known.enter("39", Phase::Ended { code: 3 });
        assert_eq!(known.ended.len(), 1);
        assert!(known.execs["39"].config.env.is_none() && known.execs["39"].sizes.is_none());
        let all: usize = known.execs.values().map(Exec::bytes).sum();
        assert_eq!(known.bytes, all);
        let long_ago = Instant::now().checked_sub(REMEMBERED).unwrap();
        known.execs.get_mut("39").unwrap().since = long_ago;
        known.forget();
        assert!(!known.execs.contains_key("39"));
    }
}
