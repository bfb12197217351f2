use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use robot_env_diag::Result;
use robot_env_engine::Event;
use robot_env_wire::{EVENT_FILTERS, EventMessage, takes_event};

use crate::app::App;
use crate::filter;
use crate::format::{Field, Template, Value};
use crate::interrupt::Interrupts;
use crate::quantity;
use crate::verb::{Exit, Verb};

/// Show what happens to containers, images and volumes
#[derive(Args)]
pub(crate) struct Events {
    /// Show only what matches, e.g. `event=start`, `container=x`, `type=volume`, `label=a=b`
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Begin with what happened since then: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End then: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// How long nothing may come before the time is looked at.
const PATIENCE: Duration = Duration::from_secs(3600);

impl Verb for Events {
    const SPELLINGS: &'static [&'static str] = &["events", "system events"];

    fn run(self, app: &App) -> Result<Exit> {
        let filters = filter::parse(&self.filter, EVENT_FILTERS)?;
        let format = match self.format.as_deref() {
            None | Some("") => Format::Text,
            Some("json") => Format::Json,
            Some(text) => Format::Template(Template::parse(text)?),
        };
        let now = app.now();
        let moment =
            |text: &Option<String>| text.as_deref().map(|text| quantity::moment(text, now)).transpose();
        let (since, until) = (moment(&self.since)?, moment(&self.until)?);
        // Whatever is done to the clock meanwhile, it ends then; a time that is never reached is none.
        let end = until.and_then(|until| {
            Instant::now().checked_add(Duration::try_from(until.duration_since(now)).unwrap_or_default())
        });
        let engine = app.engine()?;
        let interrupts = Interrupts::new()?;
        let mut reader = engine.events(since.is_none())?;
        let show = |event: &Event| -> Result<()> {
            let time = event.time();
            let meant = since.is_none_or(|since| time >= since) && until.is_none_or(|until| time <= until);
            if meant && takes_event(&filters, event) { app.print_line(&format.print(event)?) } else { Ok(()) }
        };
        if since.is_some() {
            reader.older().iter().try_for_each(show)?;
        }
        loop {
            // The time is taken first: what is written by then is read yet.
            let over = end.is_some_and(|end| Instant::now() > end);
            while let Some(event) = reader.next_event()? {
                show(&event)?;
            }
            if over {
                return Ok(Exit::SUCCESS);
            }
            let left =
                end.map(|end| end.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
            reader.wait(Some(interrupts.as_fd()), left.unwrap_or(PATIENCE));
            if let Some(exit) = interrupts.exit() {
                return Ok(exit);
            }
        }
    }
}

enum Format {
    Text,
    Json,
    Template(Template),
}

impl Format {
    fn print(&self, event: &Event) -> Result<String> {
        match self {
            Format::Text => Ok(text(event)),
            Format::Json => Ok(Value::of(&EventMessage::new(event)).to_json()),
            Format::Template(template) => template.print(&value(&EventMessage::new(event))),
        }
    }
}

/// The message with the names that its fields have in Go, for templates.
fn value(message: &EventMessage) -> Value {
    let mut value = Value::of(message);
    if let Value::Struct(fields) = &mut value {
        let number = Value::Int;
        for (name, value) in [
            ("Status", Value::from(message.status.as_str())),
            ("ID", message.id.as_str().into()),
            ("From", message.from.as_str().into()),
            ("Scope", message.scope.as_str().into()),
            ("Time", number(message.time)),
            ("TimeNano", number(message.time_nano)),
        ] {
            fields.push(Field { name: name.into(), value, in_json: false });
        }
    }
    value
}

/// A line as Docker prints it.
fn text(event: &Event) -> String {
    let when = event.time().to_zoned(jiff::tz::TimeZone::system());
    let mut line =
        format!("{} {} {} {}", when.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z"), event.kind, event.action, event.id);
    if !event.attributes.is_empty() {
        let words: Vec<String> =
            event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        line.push_str(&format!(" ({})", words.join(", ")));
    }
    robot_env_diag::Escaped(&line).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn event(action: &str) -> Event {
        let attributes = [("image", "ros:noetic"), ("name", "web"), ("a", "1")];
        let attributes: BTreeMap<String, String> =
            attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Event {
            kind: "container".into(),
            action: action.into(),
            id: "0123456789abcdef".into(),
            attributes,
            nanoseconds: 1_500_000_007,
        }
    }

    #[test]
    fn formats() {
        let line = text(&event("start"));
        assert!(
            line.ends_with(" container start 0123456789abcdef (a=1, image=ros:noetic, name=web)"),
            "{line}"
        );
        assert!(line.contains(":01.500000007"), "{line}");
        for (format, want) in [
            (
                "{{.Type}} {{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}",
                "container start 0123456789abcdef web",
            ),
            (
                "{{.Status}} {{.ID}} {{.From}} {{.Scope}} {{.Time}}",
                "start 0123456789abcdef ros:noetic local 1",
            ),
            ("{{json .Actor.Attributes}}", r#"{"a":"1","image":"ros:noetic","name":"web"}"#),
        ] {
            assert_eq!(
                Format::Template(Template::parse(format).unwrap()).print(&event("start")).unwrap(),
                want
            );
        }
        let json = Format::Json.print(&event("start")).unwrap();
        let whole = Format::Template(Template::parse("{{json .}}").unwrap()).print(&event("start")).unwrap();
        assert_eq!(json, whole);
        assert!(json.starts_with(r#"{"status":"start","id":"0123"#), "{json}");
    }
}
