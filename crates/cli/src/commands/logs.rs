use std::io::Write;
use std::os::fd::AsFd;

use clap::Args;
use robot_env_diag::{Error, IoContext, Kind, Result};
use robot_env_engine::stream::Stream;
use robot_env_engine::{LogEntry, LogOptions, LogStep};

use crate::app::App;
use crate::interrupt::Interrupts;
use crate::quantity;
use crate::verb::{Exit, Verb};

/// Show what a container has printed
#[derive(Args)]
pub(crate) struct Logs {
    /// Show what the log driver knows beside each line (nothing here)
    #[arg(long)]
    details: bool,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Nothing older: a time, or how long ago, e.g. `42m`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last N lines; `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
    tail: String,
    /// Show when each line was printed
    #[arg(short, long)]
    timestamps: bool,
    /// Nothing younger: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Verb for Logs {
    const SPELLINGS: &'static [&'static str] = &["logs", "container logs"];

    fn run(self, app: &App) -> Result<Exit> {
        let now = app.now();
        let moment =
            |text: &Option<String>| text.as_deref().map(|text| quantity::moment(text, now)).transpose();
        let options = LogOptions {
            stdout: true,
            stderr: true,
            since: moment(&self.since)?,
            until: moment(&self.until)?,
            // Docker takes what is no number for all, too.
            tail: self.tail.parse().ok(),
            follow: self.follow,
        };
        if options.tail.is_none()
            && !matches!(self.tail.as_str(), "all" | "")
            && self.tail.parse::<i64>().is_err()
        {
            return Err(Error::invalid(format!("invalid argument `{}` for --tail", self.tail))
                .with_hint("write a number of lines, or `all`"));
        }
        let engine = app.engine()?;
        let interrupts = self.follow.then(Interrupts::new).transpose()?;
        let mut reader = engine.logs(&self.container, options)?;
        let mut out = Output { app, pending: Vec::new() };
        loop {
            match reader.step()? {
                LogStep::Entry(entry) => out.show(&entry, &self)?,
                LogStep::Pending => {
                    out.flush()?;
                    reader.wait(interrupts.as_ref().map(AsFd::as_fd));
                    if let Some(exit) = interrupts.as_ref().and_then(Interrupts::exit) {
                        return Ok(exit);
                    }
                }
                LogStep::Ended => {
                    out.flush()?;
                    return Ok(Exit::SUCCESS);
                }
            }
        }
    }
}

/// Both outputs, with what waits to be written to standard output.
struct Output<'a> {
    app: &'a App,
    pending: Vec<u8>,
}

impl Output<'_> {
    fn show(&mut self, entry: &LogEntry, wanted: &Logs) -> Result<()> {
        let mut line = String::with_capacity(entry.text.len() + 40);
        if wanted.timestamps {
            line.push_str(&format!("{:.9} ", entry.time));
        }
        if wanted.details {
            line.push(' ');
        }
        line.push_str(&entry.text);
        match entry.stream {
            Stream::Stdout => {
                self.pending.extend_from_slice(line.as_bytes());
                if self.pending.len() > 64 * 1024 { self.flush() } else { Ok(()) }
            }
            Stream::Stderr => {
                // Where both are the same terminal, the order is kept.
                self.flush()?;
                match std::io::stderr().lock().write_all(line.as_bytes()) {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                        Err(Error::new(Kind::Interrupted, "the reader of the output is gone"))
                    }
                    done => done.io_context(|| "cannot write to standard error".into()),
                }
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.app.write(&std::mem::take(&mut self.pending))
    }
}
