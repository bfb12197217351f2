use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use robot_env_diag::{Kind, Result};
use robot_env_engine::{Container, Engine, Sample};

use crate::app::App;
use crate::format::{Column, List, Style, Value, human};
use crate::interrupt::Interrupts;
use crate::rows::short;
use crate::verb::{Exit, Verb};

/// Show what containers use of CPU, memory, network and disks
#[derive(Args)]
pub(crate) struct Stats {
    /// Show containers that do not run, too
    #[arg(short, long)]
    all: bool,
    /// json, `table TEMPLATE`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,
    /// The containers; without any, all that run
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const TABLE: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

/// Between the first two looks, so that something is shown soon.
const FIRST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(1);

impl Verb for Stats {
    const SPELLINGS: &'static [&'static str] = &["stats", "container stats"];

    fn run(self, app: &App) -> Result<Exit> {
        let style = Style::parse(self.format.as_deref(), TABLE)?;
        let engine = app.engine()?;
        for text in &self.containers {
            engine.container(text)?;
        }
        let interrupts = Interrupts::new()?;
        let mut earlier = samples(&self.watched(&engine)?, &engine);
        let mut pause = if self.no_stream { PAUSE } else { FIRST };
        let terminal = app.ambient().stdout_is_terminal && !self.no_stream;
        if terminal {
            app.print("\x1b[2J\x1b[H")?;
        }
        loop {
            if let Some(exit) = interrupts.wait(pause) {
                return Ok(exit);
            }
            let containers = self.watched(&engine)?;
            if containers.is_empty() && !self.containers.is_empty() {
                return Ok(Exit::SUCCESS);
            }
            let now = samples(&containers, &engine);
            let rows = containers
                .iter()
                .filter_map(|(text, container)| {
                    let id = container.record.id.as_str();
                    let text = if text.is_empty() { id } else { text };
                    Some(self.row(text, container, now.get(id)?, earlier.get(id)))
                })
                .collect();
            let text = List { columns: COLUMNS, rows }.print(&style)?;
            app.print(&if terminal { redrawn(&text) } else { text })?;
            if self.no_stream {
                return Ok(Exit::SUCCESS);
            }
            earlier = now;
            pause = PAUSE;
        }
    }
}

impl Stats {
    /// The containers with the texts by which the user named them; those that were named and are
    /// gone are left out.
    fn watched(&self, engine: &Engine) -> Result<Vec<(String, Container)>> {
        if self.containers.is_empty() {
            let mut all = engine.containers()?;
            all.retain(|container| self.all || container.state.state.is_running());
            return Ok(all.into_iter().map(|container| (String::new(), container)).collect());
        }
        let mut found = Vec::new();
        for text in &self.containers {
            match engine.container(text) {
                Ok(container) => found.push((text.clone(), container)),
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn row(&self, text: &str, container: &Container, now: &Sample, earlier: Option<&Sample>) -> Value {
        let id = container.record.id.as_str();
        let missing = || "--".to_owned();
        // A running container whose cgroup nobody can read.
        let known = now.cgroup.is_some() || !now.running;
        let usage = now.cgroup.unwrap_or_default();
        let cpu = match earlier {
            Some(earlier) if known => format!("{:.2}%", now.cpu_percent(earlier)),
            None if known => "0.00%".into(),
            _ => missing(),
        };
        let (memory, limit) = (now.memory(), now.memory_limit());
        let share = if limit > 0 { memory as f64 / limit as f64 * 100.0 } else { 0.0 };
        let sum = |of: fn(&robot_env_engine::Interface) -> u64| now.interfaces.iter().map(of).sum::<u64>();
        let pair = |a: u64, b: u64| format!("{} / {}", human::short(a), human::short(b));
        let of_cgroup = |text: String| if known { text } else { missing() };
        Value::row([
            ("Container", text.into()),
            ("ID", if self.no_trunc { id.into() } else { short(id).into() }),
            ("Name", container.record.name.as_str().into()),
            ("CPUPerc", cpu.into()),
            (
                "MemUsage",
                if known {
                    format!("{} / {}", human::binary(memory), human::binary(limit)).into()
                } else {
                    "-- / --".into()
                },
            ),
            ("MemPerc", of_cgroup(format!("{share:.2}%")).into()),
            ("NetIO", pair(sum(|i| i.received), sum(|i| i.sent)).into()),
            ("BlockIO", of_cgroup(pair(usage.read_bytes, usage.written_bytes)).into()),
            ("PIDs", of_cgroup(usage.processes.to_string()).into()),
        ])
    }
}

fn samples(containers: &[(String, Container)], engine: &Engine) -> BTreeMap<String, Sample> {
    let sample = |(_, container): &(String, Container)| {
        (container.record.id.as_str().to_owned(), engine.sample(container))
    };
    containers.iter().map(sample).collect()
}

/// The text over what stands on the terminal.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
